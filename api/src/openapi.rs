//! The description of the public listener (OpenAPI 3.1), with every status that it answers.

use bytes::Bytes;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, PathItem};
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder, PathsBuilder, Ref, RefOr,
    Response, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use crate::coalesce::Body;
use crate::problem::{ALLOWED, Details, Problem};

/// A user.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it describes what `shared` encodes")]
pub(crate) struct User {
    /// Positive.
    #[schema(minimum = 1)]
    id: i64,
    /// Renewed by every round.
    #[schema(minimum = 0, maximum = 100)]
    points: i32,
}

/// What can be wrong with a request for any path.
const ANYWHERE: [Problem; 5] = [
    Problem::BadRequest,
    Problem::RequestTimeout,
    Problem::ContentTooLarge,
    Problem::UriTooLong,
    Problem::HeadersTooLarge,
];

/// The description, encoded.
pub(crate) fn description() -> Bytes {
    let text = || ObjectBuilder::new().schema_type(Type::String).into();
    let info = InfoBuilder::new()
        .title("Max Two")
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(LicenseBuilder::new().name("MIT").identifier(Some("MIT")).build()))
        .description(Some(format!(
            "Returns at most two users whose points are above a minimum that nobody outside can see. \
             Every path can be read with {ALLOWED}, and answers 405 to other methods; every other path is 404."
        )))
        .build();
    let paths = PathsBuilder::new()
        .path(
            "/",
            page(
                "query",
                "At most two users who qualify, and when the previous query was",
                "application/json",
                reference("Answer"),
                true,
            ),
        )
        .path(
            "/livez",
            page(
                "live",
                "Whether the process is alive",
                "text/plain",
                text(),
                false,
            ),
        )
        .path(
            "/readyz",
            page(
                "ready",
                "Whether this replica wants requests",
                "text/plain",
                text(),
                true,
            ),
        )
        .path(
            "/openapi.json",
            page(
                "describe",
                "This description",
                "application/json",
                ObjectBuilder::new().schema_type(Type::Object).into(),
                false,
            ),
        );
    let components = ComponentsBuilder::new()
        .schema("Answer", Body::schema())
        .schema("Problem", Details::schema())
        .schema("User", User::schema());
    let description = OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components.build()))
        .build();
    description
        .to_json()
        .expect("it is made of strings and numbers")
        .into()
}

fn reference(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}

/// A path that can be read: GET, and HEAD without the body.
fn page(
    name: &str,
    summary: &str,
    content_type: &str,
    schema: RefOr<Schema>,
    can_be_unavailable: bool,
) -> PathItem {
    let operation = |name: String, good: Response, body: bool| -> Operation {
        let problems = ANYWHERE
            .into_iter()
            .chain(can_be_unavailable.then_some(Problem::Unavailable));
        let operation = OperationBuilder::new()
            .operation_id(Some(name))
            .summary(Some(summary))
            .response("200", good);
        problems
            .fold(operation, |operation, problem| {
                operation.response(problem.status().as_str(), refusal(problem, body))
            })
            .build()
    };
    let good = || ResponseBuilder::new().description(summary);
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let mut item = PathItem::new(
        HttpMethod::Get,
        operation(
            name.to_owned(),
            good().content(content_type, content).build(),
            true,
        ),
    );
    item.head = Some(operation(format!("{name}_head"), good().build(), false));
    item
}

fn refusal(problem: Problem, body: bool) -> Response {
    let mut response = ResponseBuilder::new().description(problem.detail());
    if body {
        let content = ContentBuilder::new()
            .schema(Some(reference("Problem")))
            .build();
        response = response.content("application/problem+json", content);
    }
    if problem == Problem::Unavailable {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer);
        let header = HeaderBuilder::new()
            .schema(Some(seconds))
            .description(Some("Seconds after which to try again"));
        response = response.header("Retry-After", header.build());
    }
    response.build()
}
