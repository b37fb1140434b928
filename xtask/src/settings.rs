//! `settings`: writes the files that hold the table of limits and settings, and checks that they
//! agree with it.

use crate::project::{Project, output};
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

/// What the tests know of the variables of both shells.
const TESTS: &str = "tests/harness/settings.json";
const DOCUMENTATION: &str = "docs/configuration.md";
const WRANGLER: &str = "wrangler.toml";

#[derive(Deserialize)]
struct Setting {
    name: String,
    scope: Scope,
    value: Value,
    help: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scope {
    Both,
    Worker,
    Server,
    Simulator,
}

impl Scope {
    /// Returns whether the Worker reads the variables of this scope.
    fn is_of_worker(self) -> bool {
        matches!(self, Self::Both | Self::Worker)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Value {
    Number {
        unit: Unit,
        default: u64,
        least: u64,
        greatest: u64,
    },
    Choice {
        options: Vec<String>,
        default: String,
    },
    Text {
        shape: String,
        default: TextDefault,
    },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Unit {
    Bytes,
    BytesPerSecond,
    Count,
    Kibibytes,
    Milliseconds,
    Percent,
    Seconds,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TextDefault {
    Is(String),
    Absent(String),
    Secret(String),
}

/// Writes the files that hold the table, or fails when one of them says something else.
pub(crate) fn settings(project: &Project, write: bool) -> Result<ExitCode> {
    let table = table(project)?;
    let mut outdated = Vec::new();
    for (file, render) in [
        (
            DOCUMENTATION,
            documentation as fn(&str, &[Setting]) -> Result<String>,
        ),
        (WRANGLER, wrangler),
        (TESTS, tests),
    ] {
        let path = project.path(file);
        let before = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
        let after = render(&before, &table).with_context(|| format!("in {file}"))?;
        if before == after {
            continue;
        }
        if write {
            fs::write(&path, after)?;
        }
        outdated.push(file);
    }
    let count = table.len();
    match (outdated.is_empty(), write) {
        (true, _) => println!("{count} limits and settings, the same everywhere"),
        (false, true) => println!("written: {}", outdated.join(", ")),
        (false, false) => {
            let files = outdated.join(", ");
            eprintln!("{files} differ from the table: cargo xtask settings --write");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(project: &Project) -> Result<Vec<Setting>> {
    let table = output(&mut project.example("settings")?)
        .context("the table of settings cannot be printed")?;
    serde_json::from_str(&table).context("the table of settings cannot be read")
}

/// Replaces what is between the marks of each table.
fn documentation(before: &str, table: &[Setting]) -> Result<String> {
    let of = |scope: Scope| table.iter().filter(move |setting| setting.scope == scope);
    let mut text = before.to_owned();
    for (mark, scope) in [
        ("both", Scope::Both),
        ("worker", Scope::Worker),
        ("server", Scope::Server),
    ] {
        let mut rows =
            String::from("| variable | default | range | meaning |\n| --- | --- | --- | --- |\n");
        for setting in of(scope) {
            let (default, range) = (setting.value.default(), setting.value.range());
            writeln!(
                rows,
                "| `{}` | {default} | {range} | {} |",
                setting.name,
                cell(&setting.help)
            )?;
        }
        text = between(&text, mark, &rows)?;
    }
    let mut rows = String::from("| limit | value | meaning |\n| --- | --- | --- |\n");
    for setting in of(Scope::Simulator) {
        let (name, help) = (&setting.name, cell(&setting.help));
        writeln!(rows, "| `{name}` | {} | {help} |", setting.value.default())?;
    }
    between(&text, "fixed", &rows)
}

/// Puts `content` between the marks of that name.
fn between(text: &str, mark: &str, content: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- table {mark} -->\n"),
        format!("<!-- end {mark} -->\n"),
    );
    let Some((before, rest)) = text.split_once(&begin) else {
        bail!("there is no line {}", begin.trim());
    };
    let Some((_, after)) = rest.split_once(&end) else {
        bail!("there is no line {}", end.trim());
    };
    Ok([before, &begin, content, &end, after].concat())
}

/// Escapes a bar, which would end the cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Replaces the last table, `[vars]`, with all variables that have a value by default.
fn wrangler(before: &str, table: &[Setting]) -> Result<String> {
    const HEAD: &str = "[vars]\n";
    let Some((before, _)) = before.split_once(HEAD) else {
        bail!("there is no table [vars]");
    };
    let mut text = format!("{before}{HEAD}");
    for setting in table.iter().filter(|setting| setting.scope.is_of_worker()) {
        if let Some(value) = setting.value.written() {
            writeln!(text, "{} = {value:?}", setting.name)?;
        }
    }
    Ok(text)
}

/// Returns all variables of the Worker, with their properties for the tests.
fn tests(_before: &str, table: &[Setting]) -> Result<String> {
    let of_worker = table.iter().filter(|setting| setting.scope.is_of_worker());
    let rows = of_worker.map(|setting| {
        let mut row = serde_json::json!({ "name": setting.name });
        if setting.scope == Scope::Worker {
            row["shell"] = "worker".into();
        }
        if let Value::Number {
            least, greatest, ..
        } = setting.value
        {
            row["least"] = least.into();
            row["greatest"] = greatest.into();
        }
        format!("  {row}")
    });
    let rows = rows.collect::<Vec<_>>().join(",\n");
    Ok(format!("[\n{rows}\n]\n"))
}

impl Value {
    fn default(&self) -> String {
        match self {
            Self::Number { default, unit, .. } => format!("{default}{}", unit.suffix()),
            Self::Choice { default, .. } => format!("`{default}`"),
            Self::Text { default, .. } => match default {
                TextDefault::Is(text) => format!("`{text}`"),
                TextDefault::Absent(words) | TextDefault::Secret(words) => words.clone(),
            },
        }
    }

    fn range(&self) -> String {
        match self {
            Self::Number {
                least, greatest, ..
            } => format!("{least} to {greatest}"),
            Self::Choice { options, .. } => {
                let options: Vec<_> = options.iter().map(|option| format!("`{option}`")).collect();
                options.join(", ")
            }
            Self::Text { shape, .. } => format!("`{}`", cell(shape)),
        }
    }

    /// Returns the default as the text of a variable, or `None` if there is no default.
    fn written(&self) -> Option<String> {
        match self {
            Self::Number { default, .. } => Some(default.to_string()),
            Self::Choice { default, .. } => Some(default.clone()),
            Self::Text {
                default: TextDefault::Is(text),
                ..
            } => Some(text.clone()),
            Self::Text { .. } => None,
        }
    }
}

impl Unit {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Bytes => " bytes",
            Self::BytesPerSecond => " bytes/s",
            Self::Count => "",
            Self::Kibibytes => " KiB",
            Self::Milliseconds => " ms",
            Self::Percent => " %",
            Self::Seconds => " s",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Setting> {
        serde_json::from_str(
            r#"[
                {"name": "A", "scope": "both", "help": "A|b.",
                 "value": {"number": {"unit": "bytes", "default": 2, "least": 1, "greatest": 3}}},
                {"name": "B", "scope": "both", "help": "B.",
                 "value": {"text": {"shape": "X|Y", "default": {"secret": "none"}}}},
                {"name": "W", "scope": "worker", "help": "W.",
                 "value": {"number": {"unit": "count", "default": 1, "least": 1, "greatest": 8}}},
                {"name": "C", "scope": "server", "help": "C.",
                 "value": {"choice": {"options": ["x", "y"], "default": "x"}}},
                {"name": "d", "scope": "simulator", "help": "D.",
                 "value": {"number": {"unit": "seconds", "default": 4, "least": 0, "greatest": 9}}}
            ]"#,
        )
        .unwrap()
    }

    #[test]
    fn each_table_is_between_its_marks_and_nothing_else_changes() {
        let marks = ["both", "worker", "server", "fixed"]
            .map(|mark| format!("{mark}\n<!-- table {mark} -->\nold\n<!-- end {mark} -->\n"));
        let text = documentation(&marks.concat(), &rows()).unwrap();
        for line in [
            "| `A` | 2 bytes | 1 to 3 | A\\|b. |",
            "| `B` | none | `X\\|Y` | B. |",
            "| `W` | 1 | 1 to 8 | W. |",
            "| `C` | `x` | `x`, `y` | C. |",
            "| `d` | 4 s | D. |",
        ] {
            assert!(
                text.lines().any(|each| each == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(!text.contains("old") && text.starts_with("both\n"));
        assert_eq!(documentation(&text, &rows()).unwrap(), text);
        assert!(documentation("nothing", &rows()).is_err());
    }

    #[test]
    fn variables_and_tests_list_those_of_the_worker() {
        assert_eq!(
            wrangler("a = 1\n[vars]\nZ = 1\n", &rows()).unwrap(),
            "a = 1\n[vars]\nA = \"2\"\nW = \"1\"\n"
        );
        assert!(wrangler("a = 1\n", &rows()).is_err());
        let rows_of = [
            r#"{"greatest":3,"least":1,"name":"A"}"#,
            r#"{"name":"B"}"#,
            r#"{"greatest":8,"least":1,"name":"W","shell":"worker"}"#,
        ];
        let expected = format!("[\n  {}\n]\n", rows_of.join(",\n  "));
        assert_eq!(tests("", &rows()).unwrap(), expected);
    }
}
