//! The reference for people, `docs/api.md`, made of the description.

use std::fmt::Write;

use serde_json::{Map, Value};

const BEGINNING: &str = "\
# API

<!-- Made of docs/openapi.json by a test, which says how to write it again. -->

JSON over HTTP/1.1 on the control socket, where the kernel says who asks; over HTTP/1.1 and HTTP/2 with TLS 1.3 where
`[api]` of the configuration says so, with a token, a client certificate or a JWT ([access.md](access.md)). The daemon
serves the [description](openapi.json) of all of this at `/v1/openapi.json`.

Times are RFC 3339 strings in UTC. Fields are only ever added. What goes wrong is a [Problem](#problem), as
`application/problem+json`, with a status of 4xx or 5xx; 429 and 503 say in `Retry-After` when to try again. Each answer has
an `X-Request-Id`, which the log and the audit trail have, too; one that is sent is taken over.

Some requests take an `Idempotency-Key` of 1 to 128 bytes, which the caller makes up. Sent again with it, a request is not done
again and gets the first answer, with `Idempotency-Replayed: true`; another request with the same key is refused with 422, one
whose first attempt is under way with 409. A refusal is not kept, as nothing was done. Answers are kept for a day, within 8 MiB
for each caller (some 20,000 short ones) and 16 MiB for all, of which those of whoever has the most go first. They are kept in
memory: **after a restart of the daemon, what is sent again is done again.** For blocks, allows and what is taken back that is
harmless: the lists are as they were, times that are given in seconds begin anew, and the answer says `unchanged` or `updated`.
Reports count twice. Streams of lines, imports and tokens take no key and are refused with 400 if there is one.

From the network, a body has at most 1 MiB and 10,000 prefixes or reports, lists and lines have 256 MiB; a caller may have 32
requests under way. Who is refused before all of a body has come is listened to for 2 s more, and 1 MiB, so that a client that
sends first and listens later hears why.
";

/// All of it.
pub(super) fn reference(description: &Value, order: &[(&str, &str)]) -> String {
    let mut text = BEGINNING.to_owned();
    text.push_str("\n## Requests\n");
    for (method, path) in order {
        let operation = &description["paths"][path][method];
        operation_of(&mut text, method, path, operation).unwrap();
    }
    text.push_str("\n## Objects\n");
    for (name, schema) in object(&description["components"]["schemas"]) {
        schema_of(&mut text, name, schema).unwrap();
    }
    text
}

fn operation_of(text: &mut String, method: &str, path: &str, operation: &Value) -> std::fmt::Result {
    let ways = operation["security"].as_array().into_iter().flatten();
    let scopes: Vec<String> =
        ways.filter_map(|way| way["token"][0].as_str()).map(|scope| format!("`{scope}`")).collect();
    let scope = match scopes.is_empty() {
        false => format!("Scope {}.", scopes.join(" or ")),
        true => "For anybody.".to_owned(),
    };
    writeln!(
        text,
        "\n### `{} {path}`\n\n{} {scope}\n",
        method.to_uppercase(),
        string(&operation["summary"])
    )?;
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if let Some(place) = parameter["$ref"].as_str() {
            writeln!(text, "- header `{}`", name_of(place))?;
            continue;
        }
        let needed = if parameter["required"] == true { ", required" } else { "" };
        let (name, place) = (string(&parameter["name"]), string(&parameter["in"]));
        writeln!(text, "- {place} `{name}`{needed}: {}", string(&parameter["description"]))?;
    }
    for (media, content) in object(&operation["requestBody"]["content"]) {
        let about = operation["requestBody"]["description"].as_str();
        writeln!(
            text,
            "- takes `{media}`: {}",
            about.map_or_else(|| kind(&content["schema"]), str::to_owned)
        )?;
    }
    let answer = &operation["responses"]["200"];
    for (media, content) in object(&answer["content"]) {
        let about = kind(&content["schema"]);
        let about = if about == "string" { string(&answer["description"]).to_owned() } else { about };
        writeln!(text, "- gives `{media}`: {about}")?;
    }
    Ok(())
}

fn schema_of(text: &mut String, name: &str, schema: &Value) -> std::fmt::Result {
    writeln!(text, "\n### {name}")?;
    let about = line(&schema["description"]);
    if !about.is_empty() {
        writeln!(text, "\n{about}")?;
    }
    let members = schema["enum"].as_array().into_iter().flatten();
    let members: Vec<_> = members.map(|member| format!("`{}`", string(member))).collect();
    if !members.is_empty() {
        writeln!(text, "\nOne of {}.", members.join(", "))?;
    }
    let parts = schema["allOf"].as_array().map_or(std::slice::from_ref(schema), Vec::as_slice);
    for part in parts {
        if part["$ref"].is_string() {
            writeln!(text, "\nAll of {}, and:", kind(part))?;
        }
    }
    let fields: Vec<_> = parts.iter().flat_map(fields_of).collect();
    if !fields.is_empty() {
        writeln!(text, "\n| field | | |\n|---|---|---|")?;
        for field in fields {
            writeln!(text, "{field}")?;
        }
    }
    Ok(())
}

fn fields_of(schema: &Value) -> impl Iterator<Item = String> {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    object(&schema["properties"]).map(move |(field, of)| {
        let optional = if required.iter().any(|name| name == field) { "" } else { ", may be absent" };
        format!("| `{field}` | {}{optional} | {} |", kind(of), line(&of["description"]).replace('|', "\\|"))
    })
}

/// Of what a reference leads to.
fn name_of(place: &str) -> &str {
    place.rsplit('/').next().unwrap_or_default()
}

fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().map(name_of) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(any) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let any: Vec<_> = any.iter().filter(|one| one["type"] != "null").map(kind).collect();
        return any.join(" or ");
    }
    let of = &schema["type"];
    // Of several types, the others are null.
    let of = of.as_array().and_then(|of| of.iter().find(|one| *one != "null")).unwrap_or(of);
    match of.as_str() {
        Some("array") => format!("array of {}", kind(&schema["items"])),
        Some(name) => name.to_owned(),
        None => String::new(),
    }
}

fn object(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A text for people, in one line, without the marks of links within the code.
fn line(value: &Value) -> String {
    let words: Vec<&str> = string(value).split_whitespace().collect();
    words.join(" ").replace("[`", "`").replace("`]", "`")
}
