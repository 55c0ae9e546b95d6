//! The JSON Schema of a configuration (draft 2020-12), for editors, made from the table of keys. It knows
//! the shape of a file; what names mean and whether a policy makes sense is said by `octroi check`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::{KEYS, Key};
use super::values;
use crate::policy::Wanted;
use crate::types::Operation;

const NAME: &str = "[a-z0-9-]{1,32}";
const SIZE: &str = r"[0-9]+\s*(B|[KMGTP]iB)?";
const PRINCIPAL: &str = r"(\*|user:.+|group:.+|[a-z0-9-]{1,32})";

/// The sections without which there is no view.
const REQUIRED: [&str; 2] = ["view", "branches"];

/// The sections of which there can be several, as `[[SECTION]]`.
const TABLES: [&str; 2] = ["checks", "expect"];

/// The keys below a section.
#[derive(Default)]
struct Node {
    below: BTreeMap<&'static str, Node>,
    key: Option<&'static Key>,
}

/// The schema as a text with a final newline.
pub fn schema() -> String {
    let mut root = Node::default();
    for key in KEYS.iter().filter(|key| key.implemented) {
        let mut node = &mut root;
        for name in key.name.split('.') {
            node = node.below.entry(name).or_default();
        }
        node.key = Some(key);
    }
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("octroi: the configuration of a view"));
    schema.extend(root.members());
    schema.insert("required".to_owned(), json!(REQUIRED));
    format!("{:#}\n", Value::Object(schema))
}

impl Node {
    fn schema(&self, name: &str) -> Value {
        if let Some(key) = self.key {
            return value_of(key);
        }
        let mut members = self.members();
        if TABLES.contains(&name) {
            return json!({ "type": "array", "items": members });
        }
        if self.below.contains_key("deny") && self.below.contains_key("allow") {
            let choice = json!([
                { "required": ["deny", "reason"], "not": { "required": ["allow"] } },
                { "required": ["allow"], "not": { "required": ["deny"] } },
            ]);
            members.insert("oneOf".to_owned(), choice);
        }
        Value::Object(members)
    }

    /// Of a table: its keys, and which must be there.
    fn members(&self) -> Map<String, Value> {
        let mut table = Map::new();
        table.insert("type".to_owned(), json!("object"));
        table.insert("additionalProperties".to_owned(), json!(false));
        if let Some(named) = self.below.get("NAME") {
            let any_name = format!("^{NAME}$");
            table.insert("patternProperties".to_owned(), json!({ any_name: named.schema("NAME") }));
            return table;
        }
        let properties: Map<String, Value> =
            self.below.iter().map(|(name, node)| ((*name).to_owned(), node.schema(name))).collect();
        let required: Vec<&str> = self
            .below
            .iter()
            .filter(|(_, node)| node.key.is_some_and(|key| key.default == "required"))
            .map(|(name, _)| *name)
            .collect();
        table.insert("properties".to_owned(), Value::Object(properties));
        if !required.is_empty() {
            table.insert("required".to_owned(), json!(required));
        }
        table
    }
}

/// The schema of a key's value, with what the manual says of it.
fn value_of(key: &Key) -> Value {
    let mut value = shape(key.kind);
    if let Some(members) = value.as_object_mut() {
        members.insert("description".to_owned(), json!(key.help.replace('`', "")));
        if let Some(default) = default_of(key) {
            members.insert("default".to_owned(), default);
        }
    }
    value
}

fn shape(kind: &str) -> Value {
    let text = |pattern: String| json!({ "type": "string", "pattern": pattern });
    let list = |items: Value| json!({ "type": "array", "items": items });
    let some = |items: Value| json!({ "type": "array", "items": items, "minItems": 1 });
    let size = |pattern: String, least: u64| json!({ "anyOf": [{ "type": "integer", "minimum": least }, text(pattern)] });
    match kind {
        "boolean" => json!({ "type": "boolean" }),
        "path" | "text" | "time" => json!({ "type": "string", "minLength": 1 }),
        "name" | "branch or pool" => text(format!("^{NAME}$")),
        "command" => json!({
            "type": "array",
            "prefixItems": [{ "type": "string", "pattern": "^/" }],
            "items": { "type": "string" },
            "minItems": 1,
        }),
        "paths" => list(text("^/".to_owned())),
        "branches" => some(text(format!("^{NAME}$"))),
        "path of the view" => text("^/".to_owned()),
        "principals" => list(text(format!("^{PRINCIPAL}$"))),
        "principals and exceptions" => some(text(format!("^!?{PRINCIPAL}$"))),
        "patterns" => some(json!({ "type": "string", "minLength": 1 })),
        "content types" => some(text("^[a-z]+/.+$".to_owned())),
        "verbs or operations" => some(json!({ "enum": values::operation_words() })),
        "verb or operation" => {
            let operations = Operation::ALL.into_iter().map(Operation::name);
            json!({ "enum": Wanted::VERBS.into_iter().chain(operations).collect::<Vec<_>>() })
        }
        "window or windows" => {
            let window = json!({ "type": "string", "minLength": 1 });
            json!({ "anyOf": [window, some(window.clone())] })
        }
        "losses" => list(text("^(acl|times|xattr:.+)$".to_owned())),
        "words" => list(text(r"^[^,\s]+$".to_owned())),
        "size" => size(format!("^{SIZE}$"), 0),
        "size per second" => size(format!("^{SIZE}(/s)?$"), 1),
        "share or size" => {
            json!({ "anyOf": [text("^([0-9]{1,2}|100)%$".to_owned()), size(format!("^{SIZE}$"), 0)] })
        }
        "duration" => text("^[0-9]+[smhd]$".to_owned()),
        "1 to 64" => json!({ "type": "integer", "minimum": 1, "maximum": 64 }),
        "user" => text("^user:.+$".to_owned()),
        "groups" => list(text("^group:.+$".to_owned())),
        "basis" => text(format!("^((rule|gate) {NAME}|mode|default|no gate|label|virtual)$")),
        words => json!({ "enum": words.split(", ").collect::<Vec<_>>() }),
    }
}

/// A default that stands for itself; others are words about it.
fn default_of(key: &Key) -> Option<Value> {
    let default = key.default;
    match key.kind {
        "boolean" => default.parse::<bool>().ok().map(Value::from),
        "1 to 64" => default.parse::<u64>().ok().map(Value::from),
        "size" => values::parse_size(default).ok().map(|_| json!(default)),
        "share or size" => values::parse_share(default).map(|_| json!(default)),
        "duration" => values::parse_duration(default).map(|_| json!(default)),
        "words" | "paths" | "losses" if default == "[]" => Some(json!([])),
        "patterns" if default.starts_with('/') => Some(json!([default])),
        words if words.split(", ").any(|word| word == default) => Some(json!(default)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = include_str!("../../config/octroi.schema.json");

    /// With OCTROI_BLESS set it is written anew.
    #[test]
    fn the_committed_schema_is_the_generated_one() {
        if std::env::var_os("OCTROI_BLESS").is_some() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/octroi.schema.json");
            std::fs::write(file, schema()).unwrap();
        } else {
            assert_eq!(COMMITTED, schema());
        }
    }

    #[test]
    fn every_key_is_in_the_schema_and_those_to_come_are_not() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        for key in KEYS {
            let mut at = Some(&schema);
            for name in key.name.split('.') {
                at = at.map(|at| at.get("items").unwrap_or(at)).and_then(|at| match name {
                    "NAME" => at.get("patternProperties")?.get(format!("^{NAME}$")),
                    _ => at.get("properties")?.get(name),
                });
            }
            assert_eq!(at.is_some(), key.implemented, "{}", key.name);
            let described = at.is_none_or(|at| at.get("description").is_some());
            assert!(described, "{} has no description", key.name);
            let words = at.and_then(|at| at.get("enum")).and_then(Value::as_array);
            let single = words.is_some_and(|words| words.len() == 1);
            assert!(!single || key.kind == "caller", "{}: no shape for {}", key.name, key.kind);
        }
    }

    /// Whether a value fits, by the keywords that the schema has. Patterns are left to `octroi check`.
    fn fits(schema: &Value, value: &Value) -> bool {
        let all = |list: &Value, of: &dyn Fn(&Value) -> bool| {
            list.as_array().unwrap().iter().filter(|one| of(one)).count()
        };
        schema.as_object().unwrap().iter().all(|(keyword, wanted)| match keyword.as_str() {
            "$schema" | "title" | "description" | "default" | "pattern" | "properties"
            | "patternProperties" | "prefixItems" => true,
            "type" => match wanted.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_u64(),
                other => panic!("type {other}"),
            },
            "additionalProperties" => value.as_object().is_none_or(|members| {
                members.iter().all(|(name, value)| {
                    let own = schema.get("properties").and_then(|own| own.get(name));
                    let named = || schema.get("patternProperties")?.as_object()?.values().next();
                    own.or_else(named).is_some_and(|schema| fits(schema, value))
                })
            }),
            "required" => value.as_object().is_none_or(|members| {
                all(wanted, &|name| members.contains_key(name.as_str().unwrap()))
                    == wanted.as_array().unwrap().len()
            }),
            "items" => {
                value.as_array().is_none_or(|items| items.iter().all(|item| fits(wanted, item)))
            }
            "minItems" => value.as_array().is_none_or(|items| !items.is_empty()),
            "minLength" => value.as_str().is_none_or(|text| !text.is_empty()),
            "minimum" => value.as_u64().is_none_or(|number| number >= wanted.as_u64().unwrap()),
            "maximum" => value.as_u64().is_none_or(|number| number <= wanted.as_u64().unwrap()),
            "enum" => wanted.as_array().unwrap().contains(value),
            "anyOf" => all(wanted, &|one| fits(one, value)) > 0,
            "oneOf" => all(wanted, &|one| fits(one, value)) == 1,
            "not" => !fits(wanted, value),
            other => panic!("keyword {other}"),
        })
    }

    #[track_caller]
    fn check(text: &str, wanted: bool) {
        let schema = serde_json::from_str(&schema()).unwrap();
        let value: Value = toml::from_str(text).unwrap();
        assert_eq!(fits(&schema, &value), wanted, "{text}");
    }

    #[test]
    fn the_examples_are_valid_and_mistakes_are_not() {
        check(include_str!("../../config/octroi.example.toml"), true);
        check(include_str!("../cli/example.toml"), true);
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples");
        for entry in std::fs::read_dir(examples).unwrap() {
            check(&std::fs::read_to_string(entry.unwrap().path()).unwrap(), true);
        }
        let base = "[view]\nname = \"lab\"\n[branches.inbox]\npath = \"inbox\"\n";
        check(base, true);
        check("[view]\nname = \"lab\"\n", false);
        check("[view]\n[branches.inbox]\npath = \"inbox\"\n", false);
        for (rest, wanted) in [
            ("max_free = 1", false),
            ("exposed = \"yes\"", false),
            ("min_free = 0", true),
            ("mode = \"gate-only\"", false),
            ("[rules.x]\ndeny = [\"add\"]\nwho = [\"*\"]", false),
            ("[rules.x]\ndeny = [\"add\"]\nwho = [\"*\"]\nreason = \"x\"", true),
            ("[rules.x]\ndeny = [\"ad\"]\nwho = [\"*\"]\nreason = \"x\"", false),
            ("[rules.x]\nallow = [\"add\"]\nwho = []", false),
            (
                "[rules.x]\nallow = [\"add\"]\ndeny = [\"add\"]\nwho = [\"*\"]\nreason = \"x\"",
                false,
            ),
            ("[rules.x]\nallow = [\"add\"]\nwho = [\"*\"]\nwhen = \"Mon UTC\"", true),
            ("[rules.x]\nallow = [\"add\"]\nwho = [\"*\"]\nwhen = [\"Mon UTC\"]", true),
            ("[gates.x]\nfrom = \"a\"\nto = \"b\"\nwho = [\"*\"]\nhard_links = \"refuse\"", false),
            ("[gates.x]\nfrom = \"a\"\nto = \"b\"\nwho = [\"*\"]\nlossy = [\"acl\"]", true),
            ("[hold]\nmax = true", false),
            ("[crossings]\nparallel = 65", false),
            ("[[expect]]\nas = \"user:a\"\ndo = \"read\"\npath = \"/\"\nresult = \"allow\"", true),
            ("[[expect]]\nas = \"user:a\"\ndo = \"read\"\nresult = \"allow\"", false),
        ] {
            check(&format!("{base}{rest}\n"), wanted);
        }
    }
}
