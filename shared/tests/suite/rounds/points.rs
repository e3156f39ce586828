//! Every user gets new points.

use shared::domain::rounds;
use testkit::TestDatabase;

use super::min_points;
use crate::ROUND_TIMEOUT;

/// A chi-square test: the rows of `cells` are uniform over this many different values. A fair draw
/// fails it less than once in a million times.
async fn assert_uniform(database: &TestDatabase, values: u32, cells: &str) {
    let chi_square: f64 = database
        .value(&format!(
            "with counts as (select count(*) as count from ({cells}) as cells group by cells), \
                  fair as ( \
                      select sum(count) / {values} as share, {values} - count(*) as missing \
                      from counts \
                  ) \
             select (sum((count - share) ^ 2 / share) + min(missing * share))::float8 \
             from counts, fair"
        ))
        .await;
    let freedom = f64::from(values - 1);
    assert!(
        chi_square < freedom + 6.0 * (2.0 * freedom).sqrt(),
        "{chi_square} at {freedom} degrees of freedom: {cells}"
    );
}

#[tokio::test]
async fn every_user_is_renewed_and_points_are_uniform_and_independent() {
    // Makes the worker take the table for one that Citus has distributed.
    let distribute = "set allow_system_table_mods = on; \
                      create table pg_catalog.pg_dist_partition as \
                          select 'users'::regclass as logicalrelid, 'h' as partmethod; \
                      grant select on pg_catalog.pg_dist_partition to public";
    for prepare in ["", distribute] {
        let database = TestDatabase::with_users(300_000).await;
        database.run(prepare).await;
        // Ids that equal another id shifted by 32 bits: a hash of the bigint would be the same.
        database
            .run(
                "insert into users (id) \
                 select id << 32 from generate_series(1::bigint, 100000) as id",
            )
            .await;
        let mut worker = database.connect(&database.worker_url).await;
        let mut round = async || {
            let round = rounds::run_now(&mut worker, min_points(50), ROUND_TIMEOUT)
                .await
                .unwrap();
            assert_eq!(round.users_updated, 400_000);
            let renewed = format!(
                "select count(*) from users where updated_at = '{}'",
                round.started_at
            );
            assert_eq!(database.value::<i64>(&renewed).await, 400_000);
        };
        round().await;
        database
            .run("create table before as select id, points from users")
            .await;
        round().await;

        let has_both_ends = "select min(points) = 0 and max(points) = 100 from users";
        assert!(database.value::<bool>(has_both_ends).await);
        assert_uniform(&database, 101, "select points from users").await;
        for (other, is_other) in [
            ("before", "other.id = users.id"),
            ("users", "other.id = users.id + 1"),
            ("users", "other.id = users.id << 32"),
        ] {
            let pairs = format!(
                "select users.points, other.points from users join {other} as other on {is_other}"
            );
            assert_uniform(&database, 101 * 101, &pairs).await;
        }
    }
}
