//! TLS: `sslmode=verify-full` accepts only the server itself, and a weaker mode gets a warning.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use shared::db::{Database, Error, Session};
use tempfile::NamedTempFile;
use testkit::{TestDatabase, eventually};

/// A certificate and its key, in PEM.
type Certificate = (String, String);

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server's certificate with these names, valid until 1 January of a year.
    fn sign(&self, names: &[&str], until: i32) -> Certificate {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Sets a setting of the server, and waits until new sessions have it.
async fn set(database: &TestDatabase, setting: &str, value: &str) {
    let change = format!("set {setting} = '{value}'");
    database.configure(&change).await;
    let show = format!("select current_setting('{setting}')");
    eventually("it is set", async || {
        database.value::<String>(&show).await == value
    })
    .await;
}

/// Gives the server a certificate in files of this name.
async fn serve(database: &TestDatabase, name: &str, (certificate, key): Certificate) {
    for (setting, file, text) in [
        ("ssl_key_file", "key", key),
        ("ssl_cert_file", "crt", certificate),
    ] {
        // Written by the server, which accepts only files that its own user owns.
        let file = format!("{name}.{file}");
        database
            .run(&format!(
                "copy (select unnest(string_to_array('{text}', e'\\n'))) \
                 to program 'umask 077; cat > {file}'"
            ))
            .await;
        database
            .configure(&format!("set {setting} = '{file}'"))
            .await;
    }
    set(database, "ssl_cert_file", &format!("{name}.crt")).await;
}

#[tokio::test]
async fn verify_full_accepts_only_the_server_itself() {
    // The server is that of all tests, whose sessions do without TLS.
    let database = TestDatabase::new().await;
    let ours = Authority::new();
    let root = NamedTempFile::new().unwrap();
    std::fs::write(root.path(), ours.0.pem()).unwrap();
    let connect = async |mode: &str| -> Result<Session, Error> {
        let mode = format!("sslmode={mode}&sslrootcert={}", root.path().display());
        let url = database.api_url.replace("sslmode=disable", &mode);
        let database = Database::parse(&url, "test").unwrap();
        database.connect().await
    };
    let host = &["127.0.0.1"][..];

    serve(&database, "valid", ours.sign(host, 4000)).await;
    set(&database, "ssl", "on").await;
    connect("verify-full").await.unwrap();

    for (number, (certificate, expected)) in [
        (Authority::new().sign(host, 4000), "BadSignature"),
        (ours.sign(&["elsewhere.example"], 4000), "elsewhere"),
        (ours.sign(host, 2020), "expired"),
    ]
    .into_iter()
    .enumerate()
    {
        serve(&database, &number.to_string(), certificate).await;
        // The server shows the setting before it has loaded the file.
        eventually(expected, async || {
            let error = connect("verify-full").await.unwrap_err();
            assert!(!error.is_transient(), "{error}");
            error.to_string().contains(expected)
        })
        .await;
    }

    set(&database, "ssl", "off").await;
    let error = connect("verify-full").await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "without TLS: {error}");
    assert!(!error.is_transient(), "without TLS: {error}");
}

#[test]
fn only_verify_full_is_secure_towards_another_machine() {
    for (rest, is_secure) in [
        ("db.example/d?sslmode=verify-full", true),
        ("localhost/d?sslmode=disable", true),
        ("127.1.2.3/d?sslmode=disable", true),
        ("[::1]/d?sslmode=prefer", true),
        ("%2Fvar%2Frun%2Fpostgresql/d?sslmode=disable", true),
        ("localhost,db.example/d?sslmode=prefer", false),
        ("10.0.0.1/d?sslmode=require", false),
        ("[2001:db8::1]/d?sslmode=verify-ca", false),
    ] {
        let database = Database::parse(&format!("postgres://r:p@{rest}"), "test").unwrap();
        assert_eq!(database.is_secure(), is_secure, "{rest}");
    }
}
