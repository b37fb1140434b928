use super::*;

fn read(variable: &str, value: &str) -> Result<Settings, SettingError> {
    Settings::read(&|name| (name == variable).then(|| value.to_owned()))
}

#[test]
fn every_bad_number_is_refused_by_name() {
    for row in Limits::TABLE {
        let Some(name) = row.variable else { continue };
        let zero = (row.least > 0).then_some("0");
        let bad = ["x", "-1", "+1", "1.5", " 1", "1e3", "99999999999999999999"];
        for value in bad.into_iter().chain(zero) {
            assert!(
                read(name, value).is_err_and(|bad| bad.to_string().starts_with(name)),
                "{name}={value}"
            );
        }
    }
    for (name, value) in [
        ("CACHE_MODE", "public"),
        ("DEBUG_TIMING", "yes"),
        ("ADMIN_OPEN", "yes"),
        ("WEBHOOK_ALLOW_LOOPBACK", "yes"),
        ("SUBSCRIPTIONS", "no"),
        ("PUBLIC_URL", "streams.example"),
        ("PUBLIC_URL", "https://"),
        ("PUBLIC_URL", "ftp://streams.example"),
        ("PUBLIC_URL", "https://user@streams.example"),
        ("PUBLIC_URL", "https://streams.example/?a"),
        ("PUBLIC_URL", "https://streams.example/a b"),
        ("CORS_ORIGINS", "app.example"),
        ("CORS_ORIGINS", "https://app.example/path"),
    ] {
        assert!(
            read(name, value).is_err_and(|bad| bad.to_string().starts_with(name)),
            "{name}={value}"
        );
    }
}

#[test]
fn an_account_and_its_token_are_set_together_and_the_token_is_not_shown() {
    let read = |account: &str, token: Option<&str>| {
        let settings = Settings::read(&|name| match name {
            "CF_ACCOUNT_ID" => Some(account.to_owned()),
            "METRICS_API_TOKEN" => token.map(str::to_owned),
            _ => None,
        });
        settings
            .map(|settings| settings.analytics)
            .map_err(|bad| bad.to_string())
    };
    assert_eq!(read("", None), Ok(None));
    let analytics = read("0a1b", Some("s3cret")).expect("both are valid");
    let analytics = analytics.expect("both are set");
    assert!(analytics.url().contains("/accounts/0a1b/"));
    assert!(!format!("{analytics:?}").contains("s3cret"));
    for (account, token, name) in [
        ("0a1b", None, "METRICS_API_TOKEN"),
        ("", Some("s3cret"), "CF_ACCOUNT_ID"),
        ("0a/1b", Some("s3cret"), "CF_ACCOUNT_ID"),
        ("0a1b", Some(""), "METRICS_API_TOKEN"),
    ] {
        let message = read(account, token).expect_err(name);
        assert!(
            message.starts_with(name) && !message.contains("s3cret"),
            "{message}"
        );
    }
}

#[test]
fn a_team_and_its_application_are_set_together() {
    let read = |team: &str, audience: &str| {
        let settings = Settings::read(&|name| match name {
            "ACCESS_TEAM" => Some(team.to_owned()),
            "ACCESS_AUD" => Some(audience.to_owned()),
            _ => None,
        });
        settings
            .map(|settings| settings.access)
            .map_err(|bad| bad.to_string())
    };
    assert_eq!(read("", ""), Ok(None));
    let access = Access {
        team: "my-team1".to_owned(),
        audience: "4714c1".to_owned(),
    };
    assert_eq!(read("my-team1", "4714c1"), Ok(Some(access)));
    for (team, audience, message) in [
        (
            "t",
            "",
            "ACCESS_AUD must be set, because ACCESS_TEAM is, not \"\"",
        ),
        (
            "",
            "a",
            "ACCESS_TEAM must be set, because ACCESS_AUD is, not \"\"",
        ),
        (
            "t.cloudflareaccess.com",
            "a",
            "ACCESS_TEAM must be a team such as example, for example.cloudflareaccess.com, \
                 not \"t.cloudflareaccess.com\"",
        ),
        (
            "t",
            "a b",
            "ACCESS_AUD must be the audience tag of an Access application, not \"a b\"",
        ),
    ] {
        assert_eq!(read(team, audience), Err(message.to_owned()));
    }
    assert!(read("t@evil.example", "a").is_err());
    assert!(read(&"t".repeat(64), "a").is_err());
}

#[test]
fn a_token_is_never_empty_and_never_shown() {
    for value in ["", " ", " s3cret", "s3cret\n", "s3\u{7f}cret"] {
        let message = read("AUTH_TOKEN", value).map_err(|bad| bad.to_string());
        assert!(
            message.is_err_and(
                |message| message.starts_with("AUTH_TOKEN") && !message.contains("cret")
            ),
            "{value:?}"
        );
    }
    assert_eq!(
        read("AUTH_TOKEN", "s3 cret").map(|settings| settings.auth_token),
        Ok(Some("s3 cret".into()))
    );
    assert_eq!(Settings::read(&|_| None), Ok(Settings::default()));
}

#[test]
fn secrets_of_tokens_are_long_and_never_shown() {
    let (one, other) = ("s3cret-".repeat(5), "0ther-s3cret-".repeat(3));
    for value in [
        String::new(),
        "s3cret".to_owned(),
        format!("{one},"),
        format!("{one},s3cret"),
        format!("{one}, {other}"),
        format!("{one}\n"),
        format!("s3\u{7f}cret{one}"),
    ] {
        let message = read("JWT_SECRET", &value).map_err(|bad| bad.to_string());
        assert!(
            message.is_err_and(
                |message| message.starts_with("JWT_SECRET") && !message.contains("cret-")
            ),
            "{value:?}"
        );
    }
    let both = read("JWT_SECRET", &format!("{one},{other}"));
    let both = both.map(|settings| settings.token_secrets);
    assert_eq!(both, Ok(vec![one.as_str().into(), other.as_str().into()]));
}

#[test]
fn tokens_and_secrets_are_never_shown() {
    let secret = "hush-hush-hush-hush-hush-hush-hush";
    for variable in ["AUTH_TOKEN", "JWT_SECRET", "ADMIN_TOKEN"] {
        let settings = read(variable, secret).expect("the secret is valid");
        assert_ne!(settings, Settings::default());
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hush"), "{variable}: {shown}");
    }
}

#[test]
fn a_signing_key_has_32_bytes_and_is_never_shown() {
    let seed = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    let settings = read("WEBHOOK_SIGNING_KEY", seed).expect("the key is valid");
    assert_eq!(settings.limits.signing_key, SigningSeed::parse(seed));
    assert!(settings.limits.signing_key.is_some());
    let shown = format!("{settings:?}");
    assert!(!shown.contains("AQE") && !shown.contains("1, 1"), "{shown}");
    for value in [
        "",
        "AQEB",
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQF",
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ",
        "+QEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
        " AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
    ] {
        let message = read("WEBHOOK_SIGNING_KEY", value).map_err(|bad| bad.to_string());
        assert!(
            message.as_ref().is_err_and(|message| message
                .starts_with("WEBHOOK_SIGNING_KEY must be 32 bytes")
                && !message.contains("AQE")),
            "{message:?}"
        );
    }
}

#[test]
fn the_public_url_is_where_locations_begin() {
    for (value, base) in [
        ("https://streams.example", "https://streams.example"),
        ("https://streams.example/", "https://streams.example"),
        ("http://[::1]:80/a/b/", "http://[::1]:80/a/b"),
    ] {
        let settings = read("PUBLIC_URL", value).expect("the URL is valid");
        assert_eq!(settings.location_base("http://h"), base);
    }
    assert_eq!(Settings::default().location_base("http://h"), "http://h");
}

#[test]
fn no_number_that_is_read_breaks_the_rules_of_limits() {
    for row in Limits::TABLE {
        let Some(name) = row.variable else { continue };
        for value in [row.least, row.greatest] {
            let number = read(name, &value.to_string()).map(|settings| {
                settings.limits.check();
                (row.get)(&settings.limits)
            });
            let is_ordered = number.as_ref().is_ok_and(|number| *number == value);
            assert!(is_ordered || name.starts_with("RETRY_M"), "{name}={value}");
        }
        for value in [row.least.checked_sub(1), row.greatest.checked_add(1)]
            .into_iter()
            .flatten()
        {
            let bad = read(name, &value.to_string()).map_err(|bad| bad.to_string());
            let (least, greatest) = (row.least, row.greatest);
            let rule = format!(
                "{name} must be a whole number from {least} to {greatest}, not \"{value}\""
            );
            assert_eq!(bad.map(|_| ()), Err(rule));
        }
    }
    assert_eq!(
        read("MAX_CHUNK_BYTES", "7").map(|settings| settings.limits.chunk_bytes_max),
        Ok(7)
    );
}

#[test]
fn a_first_pause_beyond_the_longest_is_refused() {
    for (name, value, rule) in [
        (
            "RETRY_MIN_MS",
            "600001",
            "at most RETRY_MAX_MS, which is 600000, not \"600001\"",
        ),
        (
            "RETRY_MAX_MS",
            "1999",
            "at most RETRY_MAX_MS, which is 1999, not \"2000\"",
        ),
    ] {
        let bad = read(name, value).map_err(|bad| bad.to_string());
        assert_eq!(bad.map(|_| ()), Err(format!("RETRY_MIN_MS must be {rule}")));
    }
}

#[test]
fn an_empty_variable_counts_as_absent_and_every_default_can_be_written() {
    for setting in table() {
        let written = match setting.value {
            Value::Number { default, .. } => default.to_string(),
            Value::Choice { default, options } => {
                assert!(options.contains(&default));
                default.to_owned()
            }
            Value::Text {
                default: TextDefault::Is(text),
                ..
            } => text.to_owned(),
            Value::Text {
                default: TextDefault::Absent(_),
                ..
            } => String::new(),
            Value::Text {
                default: TextDefault::Secret(_),
                ..
            } => continue,
        };
        assert_eq!(
            read(setting.name, &written),
            Ok(Settings::default()),
            "{}",
            setting.name
        );
        assert_eq!(
            read(setting.name, ""),
            Ok(Settings::default()),
            "{}",
            setting.name
        );
    }
}

#[test]
fn every_help_text_is_whole_sentences_and_every_variable_is_named_once() {
    let table = table();
    for setting in &table {
        assert!(
            setting.help.ends_with('.') && !setting.help.contains("  "),
            "{}",
            setting.help
        );
    }
    let names: std::collections::BTreeSet<_> = table.iter().map(|setting| setting.name).collect();
    assert_eq!(names.len(), table.len());
}
