//! The command line. Each row of the tables of settings is a flag and a variable.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};
use machine::router::{SettingError, Settings, settings};
use machine::table::{Setting, TextDefault, Value};
use server::{Bounds, config};

const ABOUT: &str = "A server for the Durable Streams protocol on one machine: append-only streams \
                     over plain HTTP, in a few SQLite files.";
const DETAILS: &str = "Without arguments it serves http://127.0.0.1:4437/v1/stream/<stream-id> from \
                       ./data. An append is answered once it is on disk. /health says whether the \
                       server works, and /metrics has figures in the format of Prometheus. Everyone \
                       who reaches the port can read both without a token.\n\nEach flag can be given \
                       as a variable of the environment instead. A value that is out of range is \
                       refused.";
const COLUMNS: usize = 100;

/// What the program was asked to do.
pub(crate) enum Request {
    Serve(Box<Arguments>),
    /// Give the directory another number of shards.
    Reshard {
        data: PathBuf,
        shards: usize,
    },
}

impl Request {
    /// Reads the arguments and the environment of this process. Ends the process when an argument
    /// is unknown, or when help was asked for.
    pub(crate) fn parse() -> Result<Self, SettingError> {
        Self::read(&command().get_matches())
    }

    fn read(matches: &ArgMatches) -> Result<Self, SettingError> {
        let Some(matches) = matches.subcommand_matches("reshard") else {
            return Arguments::read(matches).map(|arguments| Self::Serve(Box::new(arguments)));
        };
        let given = |name: &str| matches.get_one::<String>(name).cloned();
        let of_shards = |name: &str| given("SHARDS").filter(|_| name == "SHARDS");
        Ok(Self::Reshard {
            data: PathBuf::from(given("DATA").unwrap_or_default()),
            shards: Bounds::read(&of_shards)?.shards,
        })
    }
}

/// What the server was started with.
pub(crate) struct Arguments {
    pub(crate) listen: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) log: String,
    pub(crate) log_as_json: bool,
    pub(crate) cold: Option<String>,
    pub(crate) s3_endpoint: Option<String>,
    pub(crate) s3_region: Option<String>,
    pub(crate) settings: Settings,
    pub(crate) bounds: Bounds,
}

impl Arguments {
    fn read(matches: &ArgMatches) -> Result<Self, SettingError> {
        let matches = matches.subcommand_matches("serve").unwrap_or(matches);
        let given: BTreeMap<&str, String> = sections()
            .into_iter()
            .flat_map(|(_, rows)| rows)
            .filter_map(|row| {
                let value = matches.get_one::<String>(row.name)?;
                Some((row.name, value.clone()))
            })
            .collect();
        let variable = |name: &str| given.get(name).cloned();
        // An empty variable counts as absent.
        let text = |name: &str| variable(name).filter(|value| !value.is_empty());
        let or = |name: &str, default: &str| text(name).unwrap_or_else(|| default.to_owned());
        let listen = or("LISTEN", "127.0.0.1:4437");
        let format = or("LOG_FORMAT", "text");
        Ok(Self {
            listen: listen.parse().map_err(|_| {
                let rule = "an address and a port, such as 127.0.0.1:4437 or [::]:4437";
                settings::bad("LISTEN", rule, listen)
            })?,
            data: PathBuf::from(or("DATA", "data")),
            log: or("LOG", "info"),
            log_as_json: match format.as_str() {
                "text" => false,
                "json" => true,
                _ => return Err(settings::bad("LOG_FORMAT", "text or json", format)),
            },
            cold: text("COLD"),
            s3_endpoint: text("AWS_ENDPOINT"),
            s3_region: text("AWS_REGION"),
            settings: Settings::read(&variable)?,
            bounds: Bounds::read(&variable)?,
        })
    }
}

/// Returns the flags, by the heading under which `--help` shows them.
fn sections() -> [(&'static str, Vec<Setting>); 4] {
    let bounds = config::bounds().into_iter();
    [
        ("Server", config::places()),
        ("Cold storage", config::cold()),
        ("Protocol", settings::table()),
        (
            "Bounds of the process",
            bounds.filter(Setting::is_variable).collect(),
        ),
    ]
}

fn command() -> Command {
    let serve = Command::new("serve").about("Serve streams; the same as no command at all");
    with_flags(Command::new("durable-streams"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(format!("{ABOUT}\n\n{DETAILS}"))
        .args_conflicts_with_subcommands(true)
        .max_term_width(COLUMNS)
        .subcommand(with_flags(serve))
        .subcommand(reshard())
}

/// The command that changes the number of shards. It has two of the flags.
fn reshard() -> Command {
    let about = "Change the number of files that share the streams, or import a data directory of \
                 version 0.1. No server may use the directory. After a crash, run it again";
    let rows = sections().into_iter().flat_map(|(_, rows)| rows);
    let needed = rows.filter(|row| matches!(row.name, "DATA" | "SHARDS"));
    let flags: Vec<_> = needed.map(|row| flag(&row)).collect();
    Command::new("reshard").about(about).args(flags)
}

fn with_flags(command: Command) -> Command {
    sections()
        .into_iter()
        .fold(command, |command, (heading, rows)| {
            command
                .next_help_heading(heading)
                .args(rows.iter().map(flag))
        })
}

fn flag(row: &Setting) -> Arg {
    let mut flag = Arg::new(row.name)
        .long(flag_name(row.name))
        .env(row.name)
        .help(row.summary().to_owned());
    let mut details = row.help.clone();
    match &row.value {
        Value::Number {
            unit,
            default,
            least,
            greatest,
        } => {
            details.push_str(&format!(" From {least} to {greatest}."));
            flag = flag
                .value_name(unit.value_name())
                .default_value(default.to_string());
        }
        Value::Choice { options, default } => {
            flag = flag.value_name(options.join("|")).default_value(*default);
        }
        Value::Text { shape, default } => {
            flag = flag.value_name(*shape);
            match default {
                TextDefault::Is(text) => flag = flag.default_value(*text),
                TextDefault::Absent(words) => details.push_str(&format!(" [default: {words}]")),
                TextDefault::Secret(_) => flag = flag.hide_env_values(true),
            }
        }
    }
    flag.long_help(details)
}

/// Returns the flag that sets a variable.
fn flag_name(variable: &str) -> String {
    let name = variable.to_ascii_lowercase().replace('_', "-");
    name.strip_prefix("aws-")
        .map_or_else(|| name.clone(), |rest| format!("s3-{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Arguments, SettingError> {
        // The variables of whoever runs the tests do not count.
        let command = command().mut_args(|flag| flag.env(None::<&str>));
        let words = ["durable-streams"]
            .into_iter()
            .chain(arguments.iter().copied());
        Arguments::read(&command.get_matches_from(words))
    }

    #[test]
    fn the_flags_are_sound_and_without_any_the_defaults_count() {
        command().debug_assert();
        let arguments = read(&[]).unwrap();
        assert_eq!(arguments.listen, SocketAddr::from(([127, 0, 0, 1], 4437)));
        assert_eq!(arguments.data, PathBuf::from("data"));
        assert_eq!(
            (arguments.log.as_str(), arguments.log_as_json),
            ("info", false)
        );
        assert_eq!(
            (arguments.cold, arguments.s3_endpoint, arguments.s3_region),
            (None, None, None)
        );
        assert_eq!(arguments.settings, Settings::default());
        assert_eq!(arguments.bounds, Bounds::DEFAULT);
    }

    #[test]
    fn a_flag_sets_what_its_variable_names() {
        let arguments = read(&[
            "--listen=[::1]:1",
            "--log-format=json",
            "--cold=none",
            "--s3-region=auto",
            "--max-append-bytes=7",
            "--cache-mode=shared",
            "--idle-timeout-ms=31000",
        ]);
        let arguments = arguments.unwrap();
        assert_eq!(arguments.listen.port(), 1);
        assert!(arguments.log_as_json);
        assert_eq!(arguments.cold.as_deref(), Some("none"));
        assert_eq!(arguments.s3_region.as_deref(), Some("auto"));
        assert_eq!(arguments.settings.limits.append_bytes_max, 7);
        assert_eq!(arguments.bounds.idle_timeout.as_secs(), 31);
    }

    #[test]
    fn a_bad_value_is_refused_by_the_name_of_its_variable() {
        for (flag, message) in [
            ("--listen=here", "LISTEN must be an address and a port"),
            (
                "--log-format=xml",
                "LOG_FORMAT must be text or json, not \"xml\"",
            ),
            (
                "--queue-max=0",
                "QUEUE_MAX must be a whole number from 1 to 1000000, not \"0\"",
            ),
            (
                "--sse-heartbeat-ms=99",
                "SSE_HEARTBEAT_MS must be a whole number from 100 to",
            ),
            ("--auth-token=", "AUTH_TOKEN must be a text"),
        ] {
            let bad = read(&[flag]).err().map(|bad| bad.to_string());
            assert!(
                bad.as_ref().is_some_and(|bad| bad.starts_with(message)),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn help_fits_into_its_columns() {
        for help in [command().render_help(), command().render_long_help()] {
            for line in help.to_string().lines() {
                assert!(line.chars().count() <= COLUMNS, "{line}");
            }
        }
    }
}
