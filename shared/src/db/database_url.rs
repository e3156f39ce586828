//! The URL of a database. It is checked here before sqlx parses it: sqlx ignores a parameter that
//! it does not know, and logs its name and value; its errors quote values.
//!
//! An unescaped `/`, `?` or `#` turns the rest of a password into a path, a parameter or a
//! fragment. So an error names a known parameter, an unknown one that looks like a parameter, or a
//! file, and no other part of the URL.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tracing::subscriber::{NoSubscriber, with_default};
use url::{Host, Url};

use super::Error;

/// The servers of the URL that a file holds.
pub(super) fn read(file: &Path) -> Result<Vec<PgConnectOptions>, Error> {
    let read = fs::read_to_string(file).or_else(|error| invalid(&error.to_string()));
    read.and_then(|text| parse(&text))
        .or_else(|error| invalid(&format!("DATABASE_URL_FILE {}: {error}", file.display())))
}

/// The servers of a URL, in its order.
pub(super) fn parse(text: &str) -> Result<Vec<PgConnectOptions>, Error> {
    // A file usually ends with a line break, and some editors begin it with a byte order mark.
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with(['"', '\'']) {
        return invalid("it is in quotes, which `docker run --env-file` keeps: write it without");
    }
    if text.contains(['\n', '\r']) {
        return invalid("it has more than one line");
    }
    let Some(rest) = text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
    else {
        return invalid("not a Postgres URL: it does not start with postgres://");
    };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if rest.contains('@') {
        return invalid(
            "it has an @ behind the host: write /, ? and # in a password as %2F, %3F and %23, \
             and an @ anywhere as %40",
        );
    }
    if rest.contains('#') {
        return invalid("it has a fragment: write # as %23");
    }
    let hosts_at = authority.rfind('@').map_or(0, |at| at + 1);
    let (credentials, hosts) = authority.split_at(hosts_at);
    hosts
        .split(',')
        .map(|host| parse_server(credentials, host, rest))
        .collect()
}

fn parse_server(credentials: &str, host: &str, rest: &str) -> Result<PgConnectOptions, Error> {
    // The url crate takes no credentials and no port without a host, which may be a parameter.
    let is_host_missing = host.is_empty() || host.starts_with(':');
    let placeholder = if is_host_missing { "localhost" } else { "" };
    // Its errors are constant sentences, which quote no part of the URL.
    let url = Url::parse(&format!(
        "postgres://{credentials}{placeholder}{host}{rest}"
    ))
    .or_else(|error| invalid(&format!("not a Postgres URL: {error}")))?;
    for (name, value) in url.query_pairs() {
        check_parameter(&name, &value)?;
    }
    // Nothing that sqlx logs meanwhile may appear: it also quotes lines of a `.pgpass`.
    let options = with_default(NoSubscriber::default(), || PgConnectOptions::from_url(&url))
        .or_else(|_| invalid("it has a % that encodes no UTF-8 text"))?;
    Ok(match url.host() {
        // sqlx keeps the brackets, which belong to the URL and not to the address.
        Some(Host::Ipv6(address)) if Some(options.get_host()) == url.host_str() => {
            options.host(&address.to_string())
        }
        _ if is_host_missing && !url.query_pairs().any(|(name, _)| name.starts_with("host")) => {
            options.host(PgConnectOptions::new_without_pgpass().get_host())
        }
        _ => options,
    })
}

/// Parameters of libpq that sqlx does not know, and the values for which sqlx does the same anyway.
/// As for `target_session_attrs`: of several servers, these programs always choose a writable one.
const WITHOUT_EFFECT: [(&str, &[&str]); 8] = [
    ("channel_binding", &["prefer", "disable"]),
    ("client_encoding", &["utf8", "UTF8"]),
    ("gssencmode", &["prefer", "disable"]),
    ("load_balance_hosts", &["disable"]),
    ("sslcompression", &["0"]),
    ("sslnegotiation", &["postgres"]),
    ("sslsni", &["1"]),
    ("target_session_attrs", &["read-write", "primary", "any"]),
];

/// Checks a parameter. The other names are those that sqlx knows.
fn check_parameter(name: &str, value: &str) -> Result<(), Error> {
    if let Some((_, values)) = WITHOUT_EFFECT.iter().find(|(known, _)| *known == name) {
        return if values.contains(&value) {
            Ok(())
        } else {
            invalid(&format!("{name} can only be {}", values.join(" or ")))
        };
    }
    let is_valid = match name {
        "sslmode" | "ssl-mode" => value.parse::<PgSslMode>().is_ok(),
        "host" | "hostaddr" | "port" if value.contains(',') => {
            return invalid(&format!(
                "{name} takes one value: several servers stand before the database, as in \
                 postgres://one.example:5432,other.example:5432/database"
            ));
        }
        "hostaddr" => value.parse::<IpAddr>().is_ok(),
        "port" => value.parse::<u16>().is_ok(),
        // `connect_timeout` has no effect: each attempt to connect has a time limit anyway.
        "statement-cache-capacity" | "connect_timeout" => value.parse::<u32>().is_ok(),
        "sslrootcert" | "ssl-root-cert" | "ssl-ca" | "sslcert" | "ssl-cert" | "sslkey"
        | "ssl-key" => {
            // Each new session reads the file again, so it may be renewed.
            return match fs::read_to_string(value) {
                Ok(text) if text.contains("-----BEGIN ") => Ok(()),
                Ok(_) => invalid(&format!("{name} {value}: it is no PEM file")),
                Err(error) => invalid(&format!("{name} {value}: {error}")),
            };
        }
        "host" | "dbname" | "user" | "password" | "application_name" | "options" => true,
        _ if name.starts_with("options[") && name.ends_with(']') => true,
        _ if name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || b"_-".contains(&byte)) =>
        {
            return invalid(&format!("unknown parameter {name}"));
        }
        _ => return invalid("it has a parameter that is none of Postgres'"),
    };
    if is_valid {
        Ok(())
    } else {
        invalid(&format!("the value of {name} is not valid"))
    }
}

fn invalid<T>(reason: &str) -> Result<T, Error> {
    Err(Error::Url(reason.to_owned()))
}
