//! TLS: `sslmode=verify-full` accepts only the server itself, and a weaker mode gets a warning.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use shared::db::{Database, Error, Session};
use tempfile::NamedTempFile;
use testkit::TestDatabase;

/// A certificate authority, and the file with its certificate.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem("CERTIFICATE", issuer.der())).unwrap();
        Self { issuer, file }
    }

    /// Gives the server a certificate for `name` that is valid until 1 January of a year.
    async fn certify(&self, database: &TestDatabase, name: &str, until: i32) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // Written by the server, which accepts only files that its own user owns.
        for (file, text) in [
            ("server.crt", pem("CERTIFICATE", certificate.der())),
            ("server.key", pem("PRIVATE KEY", &key.serialize_der())),
        ] {
            database
                .run(&format!(
                    "copy (select unnest(string_to_array('{text}', e'\\n'))) \
                     to program 'umask 077; cat > {file}'"
                ))
                .await;
        }
        restart_with_tls(database, "on").await;
    }

    /// Connects as the api, with this `sslmode` and only this authority.
    async fn connect(&self, database: &TestDatabase, mode: &str) -> Result<Session, Error> {
        let url = database.api.replace(
            "sslmode=disable",
            &format!("sslmode={mode}&sslrootcert={}", self.file.path().display()),
        );
        let database = Database::parse(&url, "test").unwrap();
        database.connect(Duration::from_secs(10)).await
    }
}

/// A certificate or a key as text.
fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

async fn restart_with_tls(database: &TestDatabase, ssl: &str) {
    database.run(&format!("alter system set ssl = {ssl}")).await;
    let mut server = database.server.lock().await;
    tokio::task::block_in_place(|| {
        server.stop();
        server.start_again().unwrap();
    });
}

async fn is_encrypted(session: &mut Session) -> bool {
    sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        .fetch_one(session)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_full_accepts_only_the_server_itself() {
    let database = TestDatabase::with_own_server().await;
    let ours = Authority::new("ours");

    ours.certify(&database, "127.0.0.1", 4000).await;
    let mut verified = ours.connect(&database, "verify-full").await.unwrap();
    assert!(is_encrypted(&mut verified).await);

    for (what, authority, name, until) in [
        (
            "another authority",
            &Authority::new("theirs"),
            "127.0.0.1",
            4000,
        ),
        ("another name", &ours, "elsewhere.example", 4000),
        ("an expired certificate", &ours, "127.0.0.1", 2020),
    ] {
        authority.certify(&database, name, until).await;
        let error = ours.connect(&database, "verify-full").await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{what}: {error}");
        assert!(!error.is_transient(), "{what}: {error}");
        // Only the certificate is wrong: a mode that does not verify it connects.
        let mut unverified = ours.connect(&database, "require").await.unwrap();
        assert!(is_encrypted(&mut unverified).await, "{what}");
    }

    restart_with_tls(&database, "off").await;
    let error = ours.connect(&database, "verify-full").await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "without TLS: {error}");
    assert!(!error.is_transient(), "without TLS: {error}");
    let mut unencrypted = ours.connect(&database, "prefer").await.unwrap();
    assert!(!is_encrypted(&mut unencrypted).await);
}

#[test]
fn a_weaker_mode_towards_another_machine_gets_a_warning() {
    let warning = |rest: &str| {
        let url = format!("postgres://role:password@{rest}");
        Database::parse(&url, "test").unwrap().tls_warning()
    };
    for safe in [
        "db.example/max_two?sslmode=verify-full",
        "localhost/max_two",
        "127.0.0.1/max_two?sslmode=disable",
        "127.1.2.3/max_two",
        "[::1]/max_two",
        "%2Fvar%2Frun%2Fpostgresql/max_two",
    ] {
        assert_eq!(warning(safe), None, "{safe}");
    }
    for (unsafe_url, reason) in [
        // The default, unless PGSSLMODE is set.
        ("db.example/max_two?sslmode=prefer", "in the clear"),
        ("db.example/max_two?sslmode=disable", "in the clear"),
        ("10.0.0.1/max_two?sslmode=require", "any server"),
        ("[2001:db8::1]/max_two?sslmode=verify-ca", "same authority"),
    ] {
        assert!(
            warning(unsafe_url).unwrap().contains(reason),
            "{unsafe_url}"
        );
    }
}
