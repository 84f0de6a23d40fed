//! What configuration says, and each bad input: its own clear error, before anything is sent.

use std::time::Duration;

use ccg_session::testing::Authority;
use ccg_session::{
    ClientAuth, ConfigError, HttpTokenManager, Provider, RefreshMode, Session, SessionConfig,
    Subject, TokenRequestOptions,
};

use super::secs;

const DAY: Duration = secs(24 * 60 * 60);

fn parse(json: &str) -> Result<SessionConfig, serde_json::Error> {
    serde_json::from_str(json)
}

mod serde {
    use super::*;

    #[test]
    fn an_empty_object_is_the_default() {
        let config = parse("{}").unwrap();
        assert_eq!(config, SessionConfig::default());
        assert_eq!(config.refresh_mode, RefreshMode::WhileUsed);
        assert_eq!(config.stale_buffer, secs(600));
        assert_eq!(config.expired_buffer, secs(30));
        assert_eq!(config.retry.attempts, 3);
        assert_eq!(config.retry.attempt_timeout, secs(10));
        assert_eq!(config.retry.cooling, secs(30));
        assert_eq!(config.max_held, 131_072);
        assert_eq!(config.exchange_capacity, 1_024);
        config.check().unwrap();
    }

    #[test]
    fn durations_have_units() {
        for (text, expected) in [
            ("500ms", Duration::from_millis(500)),
            ("10s", secs(10)),
            ("10m", secs(600)),
            ("1h 30m", secs(5_400)),
            ("24h", DAY),
        ] {
            let config = parse(&format!(r#"{{ "stale_buffer": "{text}" }}"#)).unwrap();
            assert_eq!(config.stale_buffer, expected, "{text}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_and_shown() {
        for value in [r#""10""#, r#""ten minutes""#, r#""-1s""#, "600", "null", r#""""#] {
            let error =
                parse(&format!(r#"{{ "stale_buffer": {value} }}"#)).unwrap_err().to_string();
            let shown = value.trim_matches('"');
            assert!(error.contains(shown) && error.contains("\"10m\""), "{value}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        for (json, key) in [
            (r#"{ "expiredBufferMS": 1 }"#, "expiredBufferMS"),
            (r#"{ "retry": { "retries": 1 } }"#, "retries"),
            (r#"{ "refresh_mode": "sometimes" }"#, "sometimes"),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut config = SessionConfig::default();
        config.refresh_mode = RefreshMode::Always;
        config.stale_buffer = Duration::from_millis(90_500);
        config.expired_buffer = Duration::from_millis(1_250);
        config.retry.attempts = 7;
        config.retry.attempt_timeout = secs(61);
        config.retry.cooling = secs(3_600);
        config.max_held = 5;
        config.exchange_capacity = 0;
        let json = serde_json::to_string(&config).unwrap();
        assert!(json.contains(r#""stale_buffer":"1m 30s 500ms""#), "{json}");
        assert_eq!(parse(&json).unwrap(), config);
        for (mode, name) in [
            (RefreshMode::WhileUsed, r#""while_used""#),
            (RefreshMode::OnRequest, r#""on_request""#),
            (RefreshMode::Always, r#""always""#),
        ] {
            assert_eq!(serde_json::to_string(&mode).unwrap(), name);
        }
    }
}

mod refused {
    use super::*;

    /// The setting it names, and words that its message must have.
    type Expected = (&'static str, &'static [&'static str]);

    fn assert_error(error: &ConfigError, (setting, words): Expected) {
        assert_eq!(error.setting(), setting, "{error}");
        let message = error.to_string();
        assert!(message.starts_with(setting), "{message}");
        for word in words {
            assert!(message.contains(word), "{word:?} is missing: {message}");
        }
    }

    /// Each is refused by whatever spawns, and the server hears nothing of it.
    #[tokio::test]
    async fn each_setting_that_makes_no_sense_has_an_error_of_its_own_before_anything_is_sent() {
        type Change = fn(&mut SessionConfig);
        let cases: &[(Change, Expected)] = &[
            (|config| config.stale_buffer = Duration::ZERO, ("stale_buffer", &["0s", "24h"])),
            (|config| config.stale_buffer = DAY + secs(1), ("stale_buffer", &["1day 1s", "24h"])),
            (
                |config| config.expired_buffer = config.stale_buffer,
                ("expired_buffer", &["10m", "shorter", "stale_buffer"]),
            ),
            (
                |config| config.expired_buffer = secs(700),
                ("expired_buffer", &["11m 40s", "10m", "stale_buffer"]),
            ),
            (|config| config.retry.attempts = 0, ("attempts", &["0", "1 or more"])),
            (
                |config| config.retry.attempt_timeout = Duration::ZERO,
                ("attempt_timeout", &["0s", "24h"]),
            ),
            (
                |config| config.retry.attempt_timeout = DAY + secs(1),
                ("attempt_timeout", &["1day 1s", "24h"]),
            ),
            (
                |config| config.retry.cooling = Duration::from_millis(999),
                ("cooling", &["999ms", "1s", "24h"]),
            ),
            (|config| config.retry.cooling = DAY + secs(1), ("cooling", &["1day 1s", "24h"])),
            (|config| config.max_held = 0, ("max_held", &["0"])),
        ];
        let authority = Authority::start().await.unwrap();
        for (change, expected) in cases {
            let mut config = SessionConfig::default();
            config.refresh_mode = RefreshMode::Always;
            change(&mut config);
            assert_error(&config.check().unwrap_err(), *expected);
            let builder = || Session::builder(authority.manager().unwrap()).config(config.clone());
            assert_error(&builder().spawn().unwrap_err(), *expected);
            assert_error(&builder().spawn_thread().unwrap_err(), *expected);
        }
        assert_eq!(authority.counts().grants, 0);
    }

    #[test]
    fn what_is_at_the_border_is_allowed() {
        let mut config = SessionConfig::default();
        config.stale_buffer = DAY;
        config.expired_buffer = secs(86_399);
        config.retry.attempts = 1;
        config.retry.attempt_timeout = DAY;
        config.retry.cooling = DAY;
        config.max_held = 1;
        config.exchange_capacity = 0;
        config.check().unwrap();
        config.expired_buffer = Duration::ZERO;
        config.stale_buffer = Duration::from_nanos(1);
        config.retry.cooling = secs(1);
        config.check().unwrap();
    }

    fn build(provider: Provider, id: &str, secret: &str) -> Result<HttpTokenManager, ConfigError> {
        HttpTokenManager::builder(provider, id, secret).build()
    }

    fn generic(token_url: &str) -> Result<HttpTokenManager, ConfigError> {
        build(Provider::generic(token_url), "id", "s3cr3t")
    }

    #[test]
    fn each_bad_input_of_the_http_manager_has_an_error_of_its_own() {
        let fine = || Provider::generic("http://127.0.0.1:1/token");
        let boxed = |subject| Provider::box_ccg(subject).base_url("http://127.0.0.1:1");
        let cases: Vec<(Result<HttpTokenManager, ConfigError>, Expected)> = vec![
            (build(fine(), "", "s3cr3t"), ("client_id", &["empty"])),
            (build(fine(), "id", ""), ("client_secret", &["empty"])),
            (
                build(fine().client_auth(ClientAuth::Basic), "id", ""),
                ("client_secret", &["empty", "Basic"]),
            ),
            (generic(""), ("token_url", &["not a URL", "https://"])),
            (
                generic("login.example.com/token"),
                ("token_url", &["login.example.com/token", "not a URL"]),
            ),
            (generic("ftp://login.example.com"), ("token_url", &["ftp://", "https://"])),
            (
                generic("http://login.example.com/token"),
                ("token_url", &["http://login.example.com/token", "TLS", "allow_insecure_http"]),
            ),
            (generic("http://127.0.0.1.example.com/"), ("token_url", &["TLS"])),
            (generic("http://localhost.example.com/"), ("token_url", &["TLS"])),
            (generic("http://10.0.0.1/"), ("token_url", &["TLS"])),
            (generic("https://login.example.com/#token"), ("token_url", &["fragment"])),
            (
                build(fine().revocation_url("http://login.example.com/revoke"), "id", "s3cr3t"),
                ("revocation_url", &["http://login.example.com/revoke", "TLS"]),
            ),
            (
                build(fine().revocation_url("revoke"), "id", "s3cr3t"),
                ("revocation_url", &["\"revoke\"", "not a URL"]),
            ),
            (build(boxed(Subject::enterprise("")), "id", "s3cr3t"), ("subject", &["empty"])),
            (build(boxed(Subject::user("")), "id", "s3cr3t"), ("subject", &["empty"])),
            (
                build(fine().param("grant_type", "password"), "id", "s3cr3t"),
                ("param", &["\"grant_type\""]),
            ),
            (
                build(fine().assumed_lifetime(Duration::ZERO), "id", "s3cr3t"),
                ("assumed_lifetime", &["0s"]),
            ),
            (
                HttpTokenManager::builder(fine(), "id", "s3cr3t")
                    .connect_timeout(Duration::ZERO)
                    .build(),
                ("connect_timeout", &["0s"]),
            ),
        ];
        for (index, (result, expected)) in cases.into_iter().enumerate() {
            let error = result.map(|_| ()).expect_err(&format!("case {index}: {expected:?}"));
            assert_error(&error, expected);
            assert!(!error.to_string().contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_shown() {
        for url in ["https://id:p4ssw0rd@login.example.com/", "http://id:p4ssw0rd@h:port/"] {
            let error = generic(url).unwrap_err();
            assert_eq!(error.setting(), "token_url");
            assert!(!format!("{error} {error:?}").contains("p4ssw0rd"), "{error:?}");
        }
    }

    #[test]
    fn loopback_needs_no_tls_and_insecure_http_can_be_allowed() {
        for url in
            ["http://127.0.0.1:1/", "http://127.9.9.9/", "http://[::1]:1/", "http://localhost/"]
        {
            generic(url).unwrap();
        }
        HttpTokenManager::builder(Provider::generic("http://login.example.com/"), "id", "s3cr3t")
            .allow_insecure_http(true)
            .build()
            .unwrap();
    }

    #[tokio::test]
    async fn a_connect_timeout_longer_than_the_attempts_is_refused_at_spawn() {
        let authority = Authority::start().await.unwrap();
        let manager = |connect| {
            HttpTokenManager::builder(authority.provider(), "test-client", "test-secret")
                .connect_timeout(connect)
                .build()
                .unwrap()
        };
        let mut config = SessionConfig::default();
        config.refresh_mode = RefreshMode::Always;
        config.retry.attempt_timeout = secs(2);
        let builder = |connect| Session::builder(manager(connect)).config(config.clone());
        let error = builder(secs(3)).spawn().unwrap_err();
        assert_error(&error, ("connect_timeout", &["3s", "2s", "attempt_timeout"]));
        assert_eq!(authority.counts().grants, 0);
        builder(secs(2)).spawn().unwrap();
        let by_default = Session::builder(authority.manager().unwrap()).config(config.clone());
        by_default.spawn().expect("the default of 5 s is shortened, not refused");
    }

    #[test]
    fn what_is_not_a_list_of_addresses_is_no_ip() {
        for ip in
            ["", "localhost", "192.0.2.1,", "192.0.2.1 192.0.2.2", "192.0.2.1\r\nx: y", "1.2.3"]
        {
            let error = TokenRequestOptions::new().ip(ip).unwrap_err();
            assert_error(&error, ("ip", &["IP address"]));
        }
        let chain = TokenRequestOptions::new().ip("192.0.2.7 ,2001:db8::1").unwrap();
        assert_eq!(chain.forwarded_for(), Some("192.0.2.7, 2001:db8::1"));
    }
}
