//! Runs the example, so that what it shows stays true.

#[path = "../examples/minimal_shell.rs"]
#[allow(dead_code, reason = "`main` runs only in the example itself")]
mod minimal_shell;

#[test]
fn a_stream_is_created_appended_to_and_read() {
    let answers = minimal_shell::run();
    assert_eq!(
        answers,
        [
            "201 0000000000000000_0000000000000000 ",
            "204 0000000000000000_0000000000000001 ",
            "204 0000000000000000_0000000000000002 ",
            r#"200 0000000000000000_0000000000000002 [{"n":1},{"n":2}]"#,
            concat!(
                r#"400 - {"error":{"code":"bad_request","#,
                r#""message":"the offset is malformed"}}"#
            ),
        ]
    );
}
