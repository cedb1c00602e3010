//! `/api/openapi.json`, made from the table of routes.

use axum::Json;
use serde_json::{Map, Value, json};

use crate::web::routes;

pub(super) async fn describe() -> Json<Value> {
    Json(document())
}

fn document() -> Value {
    let mut paths = Map::new();
    for row in routes::table().iter().filter(|row| row.path.starts_with("/api/")) {
        let parameters: Vec<Value> = row
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        let operation = json!({
            "summary": row.summary,
            "parameters": parameters,
            "x-role": row.role.map(crate::web::Role::name),
            "responses": {
                "2XX": { "description": "Done" },
                "4XX": { "description": "Refused, with the reason" },
            },
        });
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        path[row.method.to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "slskdn", "version": env!("CARGO_PKG_VERSION") },
        "security": [{ "key": [] }, { "token": [] }, { "session": [] }],
        "components": { "securitySchemes": {
            "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            "session": { "type": "apiKey", "in": "cookie", "name": "slskdn_PORT",
                "description": "Changes also need Origin and X-CSRF-Token" },
        } },
        "paths": paths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_described() {
        let document = document();
        for row in routes::table().iter().filter(|row| row.path.starts_with("/api/")) {
            let operation = &document["paths"][row.path][row.method.to_ascii_lowercase()];
            assert_eq!(operation["summary"], row.summary);
            assert!(!row.summary.is_empty(), "{}", row.path);
        }
        assert_eq!(document["paths"]["/api/searches/{id}"]["delete"]["parameters"][0]["name"], "id");
    }
}
