//! The OpenAPI description of the public listener. Each handler describes itself. Added here is
//! what all have in common: HEAD beside each GET, and the problems of [`crate::problem`].
//!
//! Only the tests here put the description together. What is served is `openapi.json`, which is
//! committed, so that a change of the contract shows in review.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi as _, ToSchema};
use warp::http::header::RETRY_AFTER;

use crate::problem::{Details, Problem};

/// The problems that a request for any path can meet.
const COMMON_PROBLEMS: [Problem; 5] = [
    Problem::BadRequest,
    Problem::RequestTimeout,
    Problem::ContentTooLarge,
    Problem::UriTooLong,
    Problem::HeadersTooLarge,
];

/// The problems that a handler names by their status alone.
const HANDLER_PROBLEMS: [Problem; 2] = [Problem::NotFound, Problem::Unavailable];

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Max Two",
        description = "Returns at most two users whose points are above a minimum that nobody outside can see. \
                       All paths accept GET and HEAD, and answer 405 to other methods. Unknown paths return 404.",
        license(name = "MIT", identifier = "MIT"),
    ),
    paths(super::two_users, super::livez, super::readyz, super::openapi),
    components(schemas(Details)),
    modifiers(&CompletePaths)
)]
struct ApiDescription;

/// Completes the description of every path.
struct CompletePaths;

impl Modify for CompletePaths {
    fn modify(&self, openapi: &mut OpenApi) {
        for path in openapi.paths.paths.values_mut() {
            let get = path.get.as_mut().expect("every path can be read");
            // utoipa tags each operation with its module, which means nothing to clients.
            get.tags = None;
            if let Some(RefOr::T(ok)) = get.responses.responses.get_mut("200") {
                ok.description = get.summary.clone().expect("every handler has a summary");
            }
            add_problems(get);
            path.head = Some(head_of(get));
        }
    }
}

/// Describes the common problems, and those whose status the handler has named.
fn add_problems(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    let named = HANDLER_PROBLEMS
        .into_iter()
        .filter(|problem| responses.contains_key(problem.status().as_str()));
    for problem in COMMON_PROBLEMS.into_iter().chain(named.collect::<Vec<_>>()) {
        let status = problem.status().as_str().to_owned();
        responses.insert(status, describe(problem).into());
    }
}

fn describe(problem: Problem) -> Response {
    let schema = RefOr::Ref(Ref::from_schema_name(Details::name()));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new()
        .description(problem.detail())
        .content("application/problem+json", content);
    if problem.header().is_none_or(|(name, _)| name != RETRY_AFTER) {
        return response.build();
    }
    let seconds = ObjectBuilder::new().schema_type(Type::Integer);
    let retry_after = HeaderBuilder::new()
        .schema(Some(seconds))
        .description(Some("Seconds after which to try again"));
    response.header("Retry-After", retry_after.build()).build()
}

/// The same operation for HEAD, whose responses have no body.
fn head_of(get: &Operation) -> Operation {
    let mut head = get.clone();
    head.operation_id = get.operation_id.as_ref().map(|id| format!("{id}_head"));
    for response in head.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.content.clear();
        }
    }
    head
}

#[test]
fn the_committed_description_is_that_of_the_handlers() {
    let described =
        serde_json::to_value(ApiDescription::openapi()).expect("it is text and numbers");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, format!("{described:#}\n")).expect("it is in the repository");
    }
    let text = std::fs::read_to_string(path).expect("it is in the repository");
    let committed: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let (described, committed) = (format!("{described:#}"), format!("{committed:#}"));
    let differing = described
        .lines()
        .zip(committed.lines())
        .find(|(described, committed)| described != committed);
    assert!(
        described == committed,
        "{differing:?} is the first difference from openapi.json. If it is meant: \
         UPDATE_OPENAPI=1 cargo test -p api --lib description"
    );
}

/// warp can't list its routes, so this counts them in the source of the routing table. A test in
/// `contract.rs` requests each described path.
#[test]
fn every_public_route_is_described() {
    let source = include_str!("../routes.rs");
    let (_, rest) = source
        .split_once("fn public(")
        .expect("routes.rs defines it");
    let (table, _) = rest.split_once("\n}").expect("a function ends");
    let routes = table.matches("_route(").count();
    let described: Vec<_> = ApiDescription::openapi().paths.paths.into_keys().collect();
    assert_eq!(
        routes,
        described.len(),
        "`paths` of ApiDescription has {described:?}"
    );
}
