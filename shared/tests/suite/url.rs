//! What a URL may hold, and what an error about it shows.

use shared::db::Database;

/// Why this URL is rejected.
fn rejection(url: &str) -> String {
    match Database::parse(url, "test") {
        Ok(database) => panic!("{url} was accepted: {database:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_error_names_a_parameter_and_shows_no_value() {
    for (url, named) in [
        ("postgres://r:p@h/d?sslpassword=canary", "sslpassword"),
        (
            "postgres://r:p@h/d?channel_binding=require",
            "channel_binding can only be prefer",
        ),
        ("postgres://r:p@h/d?canary%20=x", "parameter"),
        ("postgres://r:p@h/d?sslmode=canary", "sslmode"),
        ("postgres://r:p@h/d?port=canary", "port"),
        ("postgres://r:p@h/d?hostaddr=canary", "hostaddr"),
        (
            "postgres://r:p@h/d?host=canary,other",
            "host takes one value",
        ),
        ("postgres://r:p@h,i:canary/d", "port"),
        ("postgres://r:canary,x/y@h/d", "%2F"),
        ("postgres://r:p@h/d#canary", "%23"),
        // Unescaped characters in a password.
        ("postgres://r:/canary+r?E':x@h/d", "%3F"),
        ("postgres://r:1?canary=x@h/d", "%3F"),
        ("postgres://r:1/canary@h/d", "%2F"),
        ("postgres://r:1#canary@h/d", "%23"),
        ("postgres://r:canary?x@h/d", "%3F"),
        ("postgres://r:%ff%fecanary@h/d", "%"),
        ("mysql://r:canary@h/d", "postgres://"),
        ("\"postgres://r:canary@h/d\"", "quotes"),
        ("postgres://r:p@h/d\nDATABASE_URL=canary", "line"),
    ] {
        let rejection = rejection(url);
        assert!(rejection.contains(named), "{url}: {rejection}");
        assert!(!rejection.contains("canary"), "{url}: {rejection}");
    }
}

#[test]
fn what_psql_takes_is_taken() {
    for (url, servers) in [
        ("\u{feff}postgresql://r:p@h/d\r\n", "h:5432"),
        (
            "postgres://r:p@/d?host=/run/postgresql",
            "/run/postgresql:5432",
        ),
        (
            "postgres://r:p@:5433/d?host=h&connect_timeout=10&channel_binding=prefer",
            "h:5433",
        ),
        (
            "postgres://r:p@one,[::1]:5433/d?target_session_attrs=primary",
            "one:5432\", \"[::1]:5433",
        ),
    ] {
        let database = format!("{:?}", Database::parse(url, "test").unwrap());
        let servers = format!("[\"{servers}\"]");
        assert!(database.contains(&servers), "{url}: {database}");
    }
    // Its own default, which is a folder or the local host.
    Database::parse("postgres://r:p@/d", "test").unwrap();
}

#[test]
fn a_file_of_certificates_that_cannot_be_used_is_named_at_once() {
    for file in ["/nowhere/ca.crt", "system", "/dev/null"] {
        for parameter in ["sslrootcert", "sslcert", "sslkey"] {
            let url = format!("postgres://r:p@h/d?sslmode=verify-full&{parameter}={file}");
            let rejection = rejection(&url);
            assert!(
                rejection.contains(parameter) && rejection.contains(file),
                "{url}: {rejection}"
            );
        }
    }
}
