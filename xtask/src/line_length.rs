//! The length of source lines. rustfmt and prettier break code, but neither comments nor macros.

use crate::project::{Project, output};

const COLUMNS_MAX: usize = 100;

/// Returns whether a line may be longer: a comment with a table or a URL, or code with a text.
fn may_be_longer(line: &str) -> bool {
    let line = line.trim();
    if line.starts_with("//") || line.starts_with('*') {
        return line.starts_with("//! |") || line.contains("://");
    }
    line.ends_with('\\') || line.contains(['"', '`'])
}

#[test]
fn no_comment_and_no_code_without_a_text_is_longer_than_100_columns() {
    let project = Project::locate().unwrap();
    let mut list = project.command("git");
    list.args(["ls-files", "*.rs", "*.mjs", "*.ts", "*.tsx"]);
    let files = output(&mut list).expect("git lists the files");
    let mut long = Vec::new();
    for file in files.lines() {
        let text = std::fs::read_to_string(project.path(file)).unwrap();
        for (line, number) in text.lines().zip(1..) {
            if line.chars().count() > COLUMNS_MAX && !may_be_longer(line) {
                long.push(format!("{file}:{number}"));
            }
        }
    }
    assert_eq!(long, [""; 0]);
}
