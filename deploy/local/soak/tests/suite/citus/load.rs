//! Clients that query a replica, and a check of what they were told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value as Json;
use testkit::Client;
use tokio::task::JoinSet;

const CLIENTS: usize = 2;

/// Records every choice and every move of the chain, while its row is locked.
pub(crate) const AUDIT: &str = "
    create schema audit;
    create table audit.choices (number bigserial primary key, users jsonb not null);
    create function audit.choice() returns trigger language plpgsql security definer as $$
    begin
        insert into audit.choices (users)
        select coalesce(jsonb_agg(jsonb_build_object('id', id, 'points', points) order by id), '[]')
        from (
            values (new.first_user_id, new.first_points), (new.second_user_id, new.second_points)
        ) as users (id, points)
        where id is not null;
        return null;
    end
    $$;
    create trigger audit after update on settings for each row execute function audit.choice();
    update settings set min_points = min_points;

    create table audit.moves (
        number bigserial primary key, previous_at timestamptz, queried_at timestamptz
    );
    create function audit.move() returns trigger language plpgsql security definer as $$
    begin
        insert into audit.moves (previous_at, queried_at) values (new.previous_at, new.queried_at);
        return null;
    end
    $$;
    create trigger audit after update on last_query for each row execute function audit.move();";

/// True if every move continues where the one before ended.
pub(crate) const IS_ONE_CHAIN: &str = "
    select count(*) > 0
       and not bool_or(previous_at is distinct from before or queried_at < previous_at)
    from (
        select previous_at, queried_at, lag(queried_at) over (order by number) as before
        from audit.moves
    ) as moves";

/// Clients that query one after the other.
pub(crate) struct Load {
    clients: JoinSet<Vec<Json>>,
    /// What came instead of an answer.
    failures: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    pub(crate) fn start(replica: &Client) -> Self {
        let (failures, stop) = (
            Arc::<Mutex<Vec<String>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (replica, failures, stop) = (replica.clone(), failures.clone(), stop.clone());
            clients.spawn(async move {
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match replica.try_get("/").await {
                        Some(reply) if reply.status == 200 => answers.push(reply.json()),
                        other => failures.lock().unwrap().push(format!("{other:?}")),
                    }
                }
                answers
            });
        }
        Self {
            clients,
            failures,
            stop,
        }
    }

    /// Asserts that every query got an answer so far.
    pub(crate) fn assert_no_failures(&self) {
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{}: {failures:?}", failures.len());
    }

    /// Ends it, and returns the answers of each client, in order.
    pub(crate) async fn stop(self) -> Vec<Vec<Json>> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await
    }
}

/// Asserts that each answer shows a choice, and none that is older than the one before, nor an
/// older time. `choices` is all choices in order.
pub(crate) fn assert_in_order(answers: &[Json], choices: &[Json]) {
    assert!(!answers.is_empty());
    assert!(answers.is_sorted_by_key(|answer| answer["timestamp"].as_str()));
    let mut choices = choices.iter().peekable();
    for answer in answers {
        while choices
            .next_if(|users| **users != answer["users"])
            .is_some()
        {}
        assert!(
            choices.peek().is_some(),
            "wrong, or older than one before: {answer}"
        );
    }
}
