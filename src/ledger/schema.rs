//! The JSON Schema of a line (draft 2020-12), for those who read ledgers with tools of their own: made
//! from the types in [`super::record`], with what the encoder adds.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Record;
use super::encode::LINE_MAX;

/// The schema as a text with a final newline.
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Record>().to_value();
    add_exact_paths(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        let described = "One line of an octroi ledger, without its newline.";
        root.insert("title".to_owned(), json!("octroi: a line of the ledger"));
        root.insert("description".to_owned(), json!(described));
        root.insert("type".to_owned(), json!("object"));
        root.insert("properties".to_owned(), envelope());
        root.insert("required".to_owned(), json!(["seq", "time", "kind", "crc"]));
        root.insert("unevaluatedProperties".to_owned(), json!(false));
    }
    format!("{schema:#}\n")
}

/// What each line has around its record.
fn envelope() -> Value {
    let whole =
        |description: &str| json!({ "type": "integer", "minimum": 0, "description": description });
    json!({
        "seq": whole("Position in the ledger, from 0, without gaps."),
        "time": {
            "type": "string",
            "format": "date-time",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{9}Z$",
            "description": "When it was appended, RFC 3339 with nanoseconds, UTC.",
        },
        "synced": whole("On the first line after an fsync: all lines with a smaller seq were on the disk."),
        "shortened": {
            "const": true,
            "description": format!("Texts were cut, so that the line has at most {LINE_MAX} bytes."),
        },
        "crc": {
            "type": "string",
            "pattern": "^[0-9a-f]{8}$",
            "description": "CRC-32C of the line's bytes before ,\"crc\".",
        },
    })
}

/// A path that is not UTF-8 has its exact bytes beside it.
fn add_exact_paths(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(add_exact_paths),
        Value::Object(fields) => {
            if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
                let is_path = |value: &&mut Value| value.get("format") == Some(&json!("path"));
                let mut exact = Map::new();
                for (name, path) in properties.iter_mut() {
                    let Some(path) = Some(path).filter(is_path) else { continue };
                    if let Some(path) = path.as_object_mut() {
                        path.remove("format");
                    }
                    let description = format!("The bytes of {name}, where it is not UTF-8.");
                    let bytes = json!({
                        "type": "string",
                        "contentEncoding": "base64",
                        "description": description,
                    });
                    exact.insert(format!("{name}_b64"), bytes);
                }
                properties.extend(exact);
            }
            fields.values_mut().for_each(add_exact_paths);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With OCTROI_BLESS set it is written anew.
    #[test]
    fn the_committed_schema_is_the_generated_one() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/ledger.schema.json");
        if std::env::var_os("OCTROI_BLESS").is_some() {
            std::fs::write(file, schema()).unwrap();
        } else {
            assert_eq!(std::fs::read_to_string(file).unwrap(), schema());
        }
    }

    /// The names of all fields, each once.
    fn names(schema: &Value, found: &mut std::collections::BTreeSet<String>) {
        match schema {
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            Value::Object(fields) => {
                let properties = fields.get("properties").and_then(Value::as_object);
                found.extend(properties.into_iter().flat_map(Map::keys).cloned());
                fields.values().for_each(|value| names(value, found));
            }
            _ => {}
        }
    }

    #[test]
    fn every_field_is_explained_in_the_readme_of_audit() {
        let readme = include_str!("../audit_dir/README.txt");
        let mut found = std::collections::BTreeSet::new();
        names(&serde_json::from_str(&schema()).unwrap(), &mut found);
        assert!(found.len() > 50, "{found:?}");
        let explained = |name: &String| {
            let name = name.strip_suffix("_b64").unwrap_or(name);
            readme.lines().any(|line| {
                let first = line.strip_prefix("  ").and_then(|line| line.split("  ").next());
                first.is_some_and(|words| words.split(", ").any(|word| word == name))
            })
        };
        found.retain(|name| !explained(name));
        assert!(found.is_empty(), "not in src/audit_dir/README.txt: {found:?}");
    }
}
