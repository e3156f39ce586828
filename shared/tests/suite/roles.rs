//! What the roles of `deploy/postgres` may do. That they may do all that they need is seen wherever
//! a test uses their sessions.

use shared::db::Session;
use shared::db::schema::migrate;
use testkit::{TestDatabase, sql};

const ROLES: &str = include_str!("../../../deploy/postgres/roles.sql");
const CREATE_DATABASE: &str = include_str!("../../../deploy/postgres/create-database.sql");
const GRANTS: &str = include_str!("../../../deploy/postgres/grants.sql");

/// Every privilege on a table or column that a role other than its owner has, and every role that
/// may do more than a program should.
const PRIVILEGES: &str = "
    with privileges as (
        select relname, '' as attribute, (aclexplode(relacl)).*, relowner
        from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'm', 'S')
        union all
        select relname, attname, (aclexplode(attacl)).*, relowner
        from pg_attribute join pg_class on pg_class.oid = attrelid
        where relnamespace = 'public'::regnamespace
    )
    select coalesce(nullif(grantee, 0)::regrole::text, 'public') || ': '
           || lower(privilege_type) || ' ' || relname
           || coalesce(' (' || string_agg(nullif(attribute, ''), ', ' order by attribute) || ')', '')
    from privileges
    where grantee <> relowner
    group by grantee, privilege_type, relname
    union all
    select rolname || ': is privileged'
    from pg_roles
    where rolname like 'max_two_%' and (
        rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls
        or exists (select from pg_auth_members where member = pg_roles.oid)
        or rolname <> 'max_two_owner' and has_schema_privilege(rolname, 'public', 'create')
    )
    union all
    select 'max_two_api: ' || oid::regprocedure
    from pg_proc
    where proname like 'pg%advisory%' and has_function_privilege('max_two_api', oid, 'execute')
    order by 1";

#[tokio::test]
async fn a_role_can_do_what_it_needs_and_nothing_else() {
    let database = TestDatabase::new().await;
    let privileges = format!("select array({PRIVILEGES})");
    let privileges: Vec<String> = database.value(&privileges).await;
    assert_eq!(
        privileges,
        [
            "max_two_api: select last_query",
            "max_two_api: select settings",
            "max_two_api: update last_query (previous_at, queried_at)",
            "max_two_worker: delete rounds",
            "max_two_worker: insert rounds",
            "max_two_worker: select last_query (queried_at)",
            "max_two_worker: select rounds",
            "max_two_worker: select settings",
            "max_two_worker: select users",
            "max_two_worker: update settings (first_points, first_user_id, min_points, \
             second_points, second_user_id, shown_users)",
            "max_two_worker: update users (points, updated_at)",
        ]
    );
}

/// Runs a script as `psql` does: what each query before a `\gexec` returns is executed.
async fn run_generated(session: &mut Session, script: &str) {
    let (queries, rest) = script.rsplit_once("\\gexec").unwrap();
    assert_eq!(rest.trim(), "");
    for query in queries.split("\\gexec") {
        let statements = format!("select array({query})");
        for statement in sql::value::<Vec<String>>(session, &statements).await {
            sql::run(session, &statement).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_work_without_a_superuser_and_where_public_has_no_rights() {
    let database = TestDatabase::with_own_server(&[]).await;
    let server = database.server.lock().await;
    let password = server.password().to_owned();
    let connect = async |role, name| database.connect(&server.url(role, name)).await;
    let mut superuser = connect("postgres", "postgres").await;
    // As on a server without the roles, that a service manages.
    for role in ["owner", "worker", "api"] {
        let rename = format!("alter role max_two_{role} rename to former_{role}");
        sql::run(&mut superuser, &rename).await;
    }
    let create = "create role administrator login createrole createdb password";
    sql::run(&mut superuser, &format!("{create} '{password}'")).await;
    let mut administrator = connect("administrator", "postgres").await;
    for _ in 0..2 {
        sql::run(&mut administrator, ROLES).await;
        run_generated(&mut administrator, CREATE_DATABASE).await;
    }
    // By default a server leaves 97 connections to roles other than superusers.
    let limits = "select sum(rolconnlimit) <= 97 from pg_roles where rolname like 'max_two_%'";
    assert!(sql::value::<bool>(&mut superuser, limits).await);
    for role in ["owner", "worker", "api"] {
        let set = format!("alter role max_two_{role} password '{password}'");
        sql::run(&mut administrator, &set).await;
    }
    let mut owner = connect("max_two_owner", "max_two").await;
    let hardening = "revoke all on database max_two from public; \
                     revoke all on schema public from public";
    sql::run(&mut owner, hardening).await;
    migrate(&mut owner).await.unwrap();
    // It keeps the rights that others have granted.
    let not_ours = "create table not_ours (); grant select on not_ours to max_two_api";
    sql::run(&mut owner, not_ours).await;
    for role in [
        "administrator",
        "max_two_owner",
        "postgres",
        "max_two_owner",
    ] {
        sql::run(&mut connect(role, "max_two").await, GRANTS).await;
    }
    for (role, table) in [
        ("max_two_worker", "users"),
        ("max_two_api", "settings"),
        ("max_two_api", "not_ours"),
    ] {
        let read = format!("select from {table}");
        sql::run(&mut connect(role, "max_two").await, &read).await;
    }
}
