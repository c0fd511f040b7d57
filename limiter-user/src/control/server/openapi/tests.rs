use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use utoipa::OpenApi;

use super::operations::{Gives, OPERATIONS, Operation, Takes};
use super::reference::reference;
use crate::access::Need;
use crate::control::protocol;
use crate::control::server::routes;

/// Makes the files of `docs` anew if it is set.
const UPDATE: &str = "UPDATE_DOCS";

#[derive(OpenApi)]
#[openapi(components(schemas(
    protocol::AddRequest,
    protocol::AddResponse,
    protocol::Checked,
    protocol::Claim,
    protocol::ClaimPage,
    protocol::Counters,
    protocol::DetachRequest,
    protocol::Detached,
    protocol::Event,
    protocol::Explanation,
    protocol::Lagged,
    protocol::NewToken,
    protocol::Problem,
    protocol::Reloaded,
    protocol::RemoveRequest,
    protocol::RemoveResponse,
    protocol::Report,
    protocol::ReportResponse,
    protocol::RotateRequest,
    protocol::Status,
    protocol::Token,
    protocol::TokenList,
    protocol::TokenRequest,
    protocol::ChangeList,
    protocol::UnconfirmedChange,
)))]
struct Objects;

/// Method and path.
type Name = (&'static str, &'static str);

fn needs() -> BTreeMap<Name, Option<Need>> {
    routes::routes().known.into_iter().map(|(method, path, need)| ((method, path), need)).collect()
}

/// Each of them is enough.
fn scopes(need: Need) -> &'static [&'static str] {
    match need {
        Need::Read => &["read"],
        Need::Report => &["report"],
        Need::Block(_) => &["block:host"],
        Need::Allow(_) => &["allow"],
        Need::Confirm => &["block:host", "allow"],
        Need::Config => &["config"],
        Need::Admin => &["admin"],
    }
}

fn security(need: Need) -> Value {
    let ways = |scope: &&str| [json!({"token": [scope]}), json!({"certificate": [scope]})];
    scopes(need).iter().flat_map(ways).collect()
}

fn object(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn content(of: &[(&str, Value)]) -> Value {
    of.iter().map(|(media, schema)| ((*media).to_owned(), json!({"schema": schema}))).collect()
}

fn described(operation: &Operation, need: Option<Need>) -> Value {
    let mut parameters = Vec::new();
    for name in operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        let about = match name {
            "id" if operation.path.starts_with("/v1/changes") => "Of the change.",
            "id" => "Of the token.",
            _ => "As `192.0.2.7` or `2001:db8::1`.",
        };
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": about, "schema": {"type": "string"}
        }));
    }
    for parameter in operation.query {
        parameters.push(json!({
            "name": parameter.name, "in": "query", "required": parameter.required,
            "description": parameter.about, "schema": {"type": parameter.kind}
        }));
    }
    if matches!(operation.takes, Takes::Once(_) | Takes::Some(_)) {
        parameters.push(json!({"$ref": "#/components/parameters/Idempotency-Key"}));
    }
    let takes = match operation.takes {
        Takes::Nothing => None,
        Takes::Json(name) | Takes::Once(name) => Some(json!({
            "required": true, "content": content(&[("application/json", object(name))])
        })),
        Takes::Some(name) => Some(json!({"required": true, "content": content(&[
            ("application/json", json!({"oneOf": [object(name), {"type": "array", "items": object(name)}]})),
            ("application/x-ndjson", object(name)),
        ])})),
        Takes::Text(about) => Some(json!({
            "required": true, "description": about, "content": content(&[("text/plain", json!({"type": "string"}))])
        })),
    };
    let json_of = |name: &str| content(&[("application/json", object(name))]);
    let (about, gives) = match operation.gives {
        Gives::Json(name) => ("Done.", json_of(name)),
        Gives::PageOrLines(page, each) => (
            "A page if there is a limit, else a line each.",
            content(&[("application/json", object(page)), ("application/x-ndjson", object(each))]),
        ),
        Gives::Events(event, lagged) => (
            "For ever.",
            content(&[("text/event-stream", json!({"oneOf": [object(event), object(lagged)]}))]),
        ),
        Gives::Text(about) => (about, content(&[("text/plain", json!({"type": "string"}))])),
        Gives::Description => (
            "OpenAPI 3.1.",
            content(&[("application/vnd.oai.openapi+json;version=3.1", json!({"type": "object"}))]),
        ),
    };
    let mut described = json!({
        "operationId": operation_id(operation),
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": about, "content": gives},
            "default": {"$ref": "#/components/responses/Problem"},
        },
        "security": need.map_or(json!([]), security),
    });
    if let Some(takes) = takes {
        described["requestBody"] = takes;
    }
    described
}

/// `post_blocks_remove`.
fn operation_id(operation: &Operation) -> String {
    let path = operation.path.trim_start_matches("/v1").replace(['{', '}'], "").replace(['/', '.'], "_");
    format!("{}{path}", operation.method)
}

fn description() -> Value {
    let needs = needs();
    let mut paths = serde_json::Map::new();
    for operation in OPERATIONS {
        let need = needs.get(&(operation.method, operation.path)).copied().flatten();
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation, need);
    }
    let mut objects = serde_json::to_value(Objects::openapi()).unwrap();
    // Only its occurrences have that.
    objects["components"]["schemas"]["Problem"]["properties"]["request_id"] =
        json!({"type": "string", "description": "As in `X-Request-Id`."});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "limiter",
            "description": "Blocks addresses in the kernel, on the word of operators and applications.",
            "version": "1",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "https://localhost:9743"}],
        "paths": paths,
        "components": {
            "schemas": objects["components"]["schemas"],
            "parameters": {"Idempotency-Key": {
                "name": "Idempotency-Key", "in": "header", "required": false,
                "description": "1 to 128 bytes. Who sends it again with the same request gets the first answer again.",
                "schema": {"type": "string", "maxLength": 128},
            }},
            "responses": {"Problem": {
                "description": "What went wrong. 429 and 503 have `Retry-After`.",
                "headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
                "content": content(&[("application/problem+json", object("Problem"))]),
            }},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token, or a JWT of the issuer of [api.oauth]."},
                "certificate": {"type": "mutualTLS", "description": "A client certificate of [[api.client]]."},
            },
        },
    })
}

/// Compares a file of `docs` with what it has to be.
fn check(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is not what the code says; look at what this changes, and keep it:\n    \
         {UPDATE}=1 cargo test -p limiter-user openapi"
    );
}

#[test]
fn the_files_say_what_the_code_does() {
    let description = description();
    check("openapi.json", &(serde_json::to_string_pretty(&description).unwrap() + "\n"));
    let order: Vec<_> = OPERATIONS.iter().map(|operation| (operation.method, operation.path)).collect();
    check("api.md", &reference(&description, &order));
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let routes: BTreeSet<Name> = needs().into_keys().collect();
    let described: BTreeSet<Name> =
        OPERATIONS.iter().map(|operation| (operation.method, operation.path)).collect();
    assert_eq!(described, routes);
    assert_eq!(described.len(), OPERATIONS.len(), "something is described twice");
}

/// Every object that is referred to is there, and every object that is there is referred to.
#[test]
fn references_lead_somewhere() {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|field| collect(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let description = description();
    let mut referred = BTreeSet::new();
    collect(&description, &mut referred);
    for place in &referred {
        let found = description.pointer(place.trim_start_matches('#'));
        assert!(found.is_some(), "{place} leads nowhere");
    }
    for name in description["components"]["schemas"].as_object().unwrap().keys() {
        assert!(referred.contains(&format!("#/components/schemas/{name}")), "nothing leads to {name}");
    }
}
