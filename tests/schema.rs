//! The JSON Schema of the configuration file. It is made from the program's defaults and the tables
//! in `configuration.md`, which `tidy.rs` compares with the program. Then tests compare the schema
//! with the program's own reader.
//!
//! After a change of the tables, `INTELLIPROXY_SCHEMA=write cargo test -p intelliproxy-tests --test
//! schema` writes the file again.
mod documents;

use std::collections::BTreeMap;
use std::fs;

use documents::{KeyRow, flatten, key_rows, read, root};
use intelliproxy::config::Config;
use serde_json::{Map, Value, json};

const SCHEMA: &str = "server/schema/intelliproxy.schema.json";
/// The file in the repository equals the schema that is made now.
#[test]
fn the_schema_is_current() {
    let made = format!("{:#}\n", made());
    let file = root().join(SCHEMA);
    if std::env::var_os("INTELLIPROXY_SCHEMA").is_some_and(|value| value == "write") {
        fs::create_dir_all(file.parent().expect("a folder")).expect("the folder");
        fs::write(&file, &made).expect("the schema");
    }
    let hint = "INTELLIPROXY_SCHEMA=write writes it again";
    assert!(read(&file) == made, "{SCHEMA} is out of date: {hint}");
}

/// The schema has every key of the program and no others, each with its default.
#[test]
fn the_schema_has_every_key() {
    let (mut keys, mut real) = (BTreeMap::new(), BTreeMap::new());
    leaves("", &schema(), &mut keys);
    flatten("", &defaults(), &mut real);
    let listed: Vec<_> = keys.keys().filter(|key| *key != "$schema").collect();
    assert_eq!(listed, real.keys().collect::<Vec<_>>());
    for (key, value) in real {
        assert_eq!(keys[&key]["default"], value, "{key}");
    }
}

/// The reader accepts each bound, name and form that the schema permits. It refuses numbers beyond
/// the bounds and values of another form.
#[test]
fn the_reader_agrees_with_the_schema() {
    let mut keys = BTreeMap::new();
    leaves("", &schema(), &mut keys);
    keys.remove("$schema");
    let (mut numbers, mut names, mut units) = (0, 0, 0);
    for (key, rule) in &keys {
        let forms = rule["anyOf"].as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
        for form in forms {
            if let Some(most) = form["maximum"].as_f64() {
                numbers += 1;
                let step = if form["type"] == "number" { 0.001 } else { 1.0 };
                let least = form["minimum"].as_f64();
                let above = form["exclusiveMinimum"].as_f64();
                let first =
                    least.or_else(|| above.map(|above| above + step)).expect("a lower bound");
                for (number, is_good) in
                    [(first, true), (most, true), (first - step, false), (most + step, false)]
                {
                    assert_eq!(takes(key, number_for(&form, number)), is_good, "{key} = {number}");
                }
            }
            for name in form["enum"].as_array().into_iter().flatten() {
                names += 1;
                assert!(takes(key, name.clone()), "{key} = {name}");
            }
            if form.get("enum").is_some() {
                assert!(!takes(key, "nonsense".into()), "{key}");
            }
            if let Some(pattern) = form["pattern"].as_str() {
                units += 1;
                let text = if pattern.contains("KiB") { "2KiB" } else { "5s" };
                assert!(takes(key, text.into()), "{key} = {text}");
                assert!(!takes(key, "5 parsecs".into()), "{key}");
            }
            match form["type"].as_str() {
                Some("boolean") => {
                    assert!(takes(key, true.into()) && takes(key, false.into()), "{key}");
                    assert!(!takes(key, "yes".into()), "{key}");
                }
                Some("array") => assert!(!takes(key, "text".into()), "{key}"),
                _ => {}
            }
        }
    }
    assert!(numbers > 40 && names > 10 && units > 20, "{numbers}, {names}, {units}");
}

/// The keys of a backend and of a listener in the schema are those that the reader knows.
#[test]
fn entries_of_lists_agree() {
    let schema = schema();
    let backend = &schema["properties"]["backends"]["items"];
    let health = json!({ "kind": "http", "path": "/up", "port": 1, "host": "h", "method": "GET",
        "status": ["200-299", 304], "body": "ok", "fields": { "X": "1" }, "intervalMs": 1, "timeoutMs": 1,
        "initial": "down" });
    let reports = json!({ "kind": "prometheus", "preset": "vllm", "path": "/m", "port": 1,
        "fields": { "queue": "q" }, "intervalMs": 1, "timeoutMs": 1, "orca": "take" });
    let tls = json!({ "serverName": "n", "ca": "f", "certificate": { "chain": "c", "key": "k" },
        "verify": false });
    let values = json!({ "name": "A", "url": "https://127.0.0.1:1", "limit": 5, "weight": 1000,
        "backup": true,
        "expand": true, "resolveMs": 100, "health": health, "reports": reports, "tls": tls });
    let keys = |object: &Value| object.as_object().expect("an object").keys().cloned().collect();
    let known: Vec<String> = keys(&values);
    let listed: Vec<String> = keys(&backend["properties"]);
    assert_eq!(listed, known);
    assert!(takes("backends", json!([values])));
    for key in known {
        let mut without = values.clone();
        without.as_object_mut().expect("an object").remove(&key);
        let is_required = backend["required"].as_array().expect("a list").contains(&json!(key));
        assert_eq!(takes("backends", json!([without])), !is_required, "{key}");
    }
    for (object, example) in [("health", &health), ("reports", &reports)] {
        let listed = &backend["properties"][object]["properties"];
        assert_eq!(keys(listed), keys(example));
        for (key, value) in example.as_object().expect("an object") {
            let backends = json!([{ "name": "A", "url": "http://h", object: { key: value } }]);
            assert!(takes("backends", backends), "{object}.{key}");
            let backends = json!([{ "name": "A", "url": "http://h", object: { key: null } }]);
            assert!(takes("backends", backends), "{object}.{key}");
            assert!(is_nullable(&listed[key]), "{object}.{key}");
        }
    }
    let of_tls = &backend["properties"]["tls"]["properties"];
    assert_eq!(keys(of_tls), keys(&tls));
    for (key, value) in tls.as_object().expect("an object") {
        for value in [value, &Value::Null] {
            let backends = json!([{ "name": "A", "url": "https://h", "tls": { key: value } }]);
            assert!(takes("backends", backends), "{key}");
        }
        assert!(is_nullable(&of_tls[key]), "{key}");
    }
    for key in ["limit", "weight"] {
        let most = backend["properties"][key]["maximum"].as_u64().expect("a bound");
        for (number, is_good) in [(most, true), (most + 1, false)] {
            let backends = json!([{ "name": "A", "url": "http://h", key: number }]);
            assert_eq!(takes("backends", backends), is_good, "{key} = {number}");
        }
    }
    assert!(!takes("backends", json!([{ "name": "A", "url": "http://h", "colour": "blue" }])));
    let auth = json!({ "ca": "a", "optional": true, "subjectField": "X-Subject",
        "fingerprintField": "X-Fingerprint" });
    let certificate = json!({ "chain": "c", "key": "k", "ocsp": "o" });
    let tls = json!({ "certificates": [certificate], "minVersion": "1.3", "clientAuth": auth,
        "hsts": "max-age=1" });
    let listener = json!({ "address": "127.0.0.1:1", "proxyProtocol": false, "reusePort": false,
        "tls": tls, "redirectToHttps": null });
    let of_schema = &schema["properties"]["listen"]["items"]["anyOf"][1]["properties"];
    assert_eq!(keys(of_schema), keys(&listener));
    assert!(takes("listen", json!(["127.0.0.1:2", listener])));
    let of_tls = &of_schema["tls"]["anyOf"][0]["properties"];
    assert_eq!(keys(of_tls), keys(&tls));
    let of_certificate = &of_tls["certificates"]["items"]["properties"];
    assert_eq!(keys(of_certificate), keys(&tls["certificates"][0]));
    let of_auth = &of_tls["clientAuth"]["anyOf"][0]["properties"];
    assert_eq!(keys(of_auth), keys(&tls["clientAuth"]));
}

/// `$schema` is accepted at the top of a file and nowhere else. The examples name the schema there.
#[test]
fn files_name_the_schema() {
    let read_text = |text: &str| Config::from_json(text).map_err(|error| error.to_string());
    assert_eq!(read_text(r#"{"$schema": "x"}"#), Ok(Config::default()));
    let wrong = read_text(r#"{"$schema": 1}"#).expect_err("no string");
    assert!(wrong.contains("$schema: must be a string, not 1"), "{wrong}");
    let wrong = read_text(r#"{"limits": {"$schema": "x"}}"#).expect_err("not at the top");
    assert!(wrong.contains("unknown key"), "{wrong}");
    let mut seen = 0;
    for entry in fs::read_dir(root().join("server/examples")).expect("the examples") {
        let file = entry.expect("a listing").path();
        if file.extension().is_some_and(|ending| ending == "json") {
            seen += 1;
            let named = r#""$schema": "../schema/intelliproxy.schema.json","#;
            assert!(read(&file).contains(named), "{}", file.display());
        }
    }
    assert!(seen >= 3, "{seen} examples were found");
}

/// Returns the schema, made from the defaults and the tables.
fn made() -> Value {
    let mut real = BTreeMap::new();
    flatten("", &defaults(), &mut real);
    let mut root = object(Map::new());
    root["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    root["title"] = json!("Configuration of IntelliProxy");
    put(&mut root, "$schema", json!({ "type": "string", "description": "This schema." }));
    let (mut own_health, mut own_reports) = (object(Map::new()), object(Map::new()));
    let mut own_tls = object(Map::new());
    for row in key_rows() {
        let default = real.get(&row.key).unwrap_or_else(|| panic!("no key {}", row.key));
        let rule = rule(&row, default);
        if let Some(key) = row.key.strip_prefix("health.") {
            put(&mut own_health, key, own(rule.clone()));
        }
        if let Some(key) = row.key.strip_prefix("reports.") {
            put(&mut own_reports, key, own(rule.clone()));
        }
        if let Some(key) = row.key.strip_prefix("tls.") {
            put(&mut own_tls, key, own(rule.clone()));
        }
        put(&mut root, &row.key, rule);
    }
    let entry = &mut root["properties"]["backends"]["items"];
    put(entry, "health", own_health);
    put(entry, "reports", own_reports);
    put(entry, "tls", own_tls);
    root
}

/// Returns the rule for a backend's own value of a key, which is the common value if it is null.
fn own(mut rule: Value) -> Value {
    let object = rule.as_object_mut().expect("a rule");
    object.remove("default");
    object.remove("description");
    if is_nullable(&rule) { rule } else { json!({ "anyOf": [rule, { "type": "null" }] }) }
}

fn is_nullable(rule: &Value) -> bool {
    let is_null = |rule: &Value| match &rule["type"] {
        Value::Array(types) => types.contains(&json!("null")),
        one => one == "null",
    };
    is_null(rule) || rule["anyOf"].as_array().is_some_and(|forms| forms.iter().any(is_null))
}

/// Returns the rule for the value of one key.
fn rule(row: &KeyRow, default: &Value) -> Value {
    let mut rule = match row.kind.as_str() {
        "boolean" => json!({ "type": "boolean" }),
        "string" => text_rule(&row.range, default),
        "list" => list_rule(row),
        "ms" => json!({ "anyOf": [
            bounded("integer", &row.range),
            { "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" },
        ] }),
        "bytes" => json!({ "anyOf": [
            bounded("integer", &row.range),
            { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" },
        ] }),
        "number" => bounded("number", &row.range),
        "object" if row.key == "tls.certificate" => {
            let file = json!({ "type": "string", "minLength": 1 });
            let mut certificate = object(Map::new());
            put(&mut certificate, "chain", file.clone());
            put(&mut certificate, "key", file);
            certificate["required"] = json!(["chain", "key"]);
            certificate
        }
        "object" => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        _ if default.is_u64() || default.is_null() => bounded("integer", &row.range),
        _ => bounded("number", &row.range),
    };
    if default.is_null() && row.kind != "string" {
        rule = json!({ "anyOf": [rule, { "type": "null" }] });
    }
    rule["default"] = default.clone();
    rule["description"] = plain(&row.meaning).into();
    rule
}

fn text_rule(range: &str, default: &Value) -> Value {
    let names: Vec<&str> = range.split('`').skip(1).step_by(2).collect();
    if names.len() > 1 {
        let mut names = json!(names);
        if default.is_null() {
            names.as_array_mut().expect("a list").push(Value::Null);
        }
        return json!({ "enum": names });
    }
    match default {
        Value::Null => json!({ "type": ["string", "null"], "minLength": 1 }),
        _ => json!({ "type": "string", "minLength": 1 }),
    }
}

/// The rules of `tls` in an entry of `listen`.
fn listener_tls() -> Value {
    let file = || json!({ "type": "string", "minLength": 1 });
    let mut certificate = object(Map::new());
    put(&mut certificate, "chain", file());
    put(&mut certificate, "key", file());
    put(&mut certificate, "ocsp", json!({ "type": ["string", "null"], "minLength": 1 }));
    certificate["required"] = json!(["chain", "key"]);
    let mut tls = object(Map::new());
    let certificates =
        json!({ "type": "array", "minItems": 1, "maxItems": 1000, "items": certificate });
    put(&mut tls, "certificates", certificates);
    put(&mut tls, "minVersion", json!({ "enum": ["1.2", "1.3"], "default": "1.2" }));
    let mut auth = object(Map::new());
    put(&mut auth, "ca", file());
    put(&mut auth, "optional", json!({ "type": "boolean", "default": false }));
    let field =
        || json!({ "type": ["string", "null"], "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$" });
    put(&mut auth, "subjectField", field());
    put(&mut auth, "fingerprintField", field());
    auth["required"] = json!(["ca"]);
    put(&mut tls, "clientAuth", json!({ "anyOf": [auth, { "type": "null" }] }));
    put(&mut tls, "hsts", json!({ "type": ["string", "null"], "pattern": "^max-age=[0-9]+" }));
    tls["required"] = json!(["certificates"]);
    json!({ "anyOf": [tls, { "type": "null" }] })
}

fn list_rule(row: &KeyRow) -> Value {
    let address = json!({ "type": "string", "pattern": ":[0-9]+$" });
    let items = match row.key.as_str() {
        "listen" => {
            let mut entry = object(Map::new());
            put(&mut entry, "address", address.clone());
            put(&mut entry, "proxyProtocol", json!({ "type": "boolean", "default": false }));
            put(&mut entry, "reusePort", json!({ "type": "boolean", "default": false }));
            put(&mut entry, "tls", listener_tls());
            let port = json!({ "type": ["integer", "null"], "minimum": 1, "maximum": 65_535 });
            put(&mut entry, "redirectToHttps", port);
            entry["required"] = json!(["address"]);
            json!({ "anyOf": [address, entry] })
        }
        "backends" => {
            let mut entry = object(Map::new());
            let name = json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}(/[][A-Za-z0-9._:-]{1,260})?$" });
            put(&mut entry, "name", name);
            put(
                &mut entry,
                "url",
                json!({ "type": "string", "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://" }),
            );
            put(
                &mut entry,
                "limit",
                json!({ "type": "integer", "minimum": 0, "maximum": 1_000_000 }),
            );
            let weight =
                json!({ "type": "integer", "minimum": 0, "maximum": 1000, "default": 100 });
            put(&mut entry, "weight", weight);
            put(&mut entry, "backup", json!({ "type": "boolean", "default": false }));
            put(&mut entry, "expand", json!({ "type": "boolean", "default": false }));
            let spans = json!([
                { "type": "integer", "minimum": 100, "maximum": 86_400_000 },
                { "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" },
                { "type": "null" },
            ]);
            put(&mut entry, "resolveMs", json!({ "anyOf": spans }));
            entry["required"] = json!(["name", "url"]);
            entry
        }
        "health.status" => json!({ "anyOf": [
            { "type": "integer", "minimum": 200, "maximum": 599 },
            { "type": "string", "pattern": "^[2-5][0-9][0-9](-[2-5][0-9][0-9])?$" },
        ] }),
        _ => json!({ "type": "string", "minLength": 1 }),
    };
    let mut rule = json!({ "type": "array", "items": items });
    let numbers: Vec<u64> = row.range.split(' ').filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [least, most] => (rule["minItems"], rule["maxItems"]) = (least.into(), most.into()),
        [most] => rule["maxItems"] = most.into(),
        _ => panic!("{}: a list has a range", row.key),
    }
    rule
}

/// Returns the rule for a number of this type in a range such as `1 to 5`, `0 or more` or `above 0,
/// at most 1`.
fn bounded(kind: &str, range: &str) -> Value {
    let number = |text: &str| -> Value {
        let number: f64 = text.replace(' ', "").parse().unwrap_or_else(|_| panic!("{range}"));
        if number.fract() == 0.0 { json!(number as i64) } else { json!(number) }
    };
    if let Some((least, most)) = range.split_once(" to ") {
        json!({ "type": kind, "minimum": number(least), "maximum": number(most) })
    } else if let Some(least) = range.strip_suffix(" or more") {
        json!({ "type": kind, "minimum": number(least) })
    } else if let Some((above, most)) =
        range.strip_prefix("above ").and_then(|rest| rest.split_once(", at most "))
    {
        json!({ "type": kind, "exclusiveMinimum": number(above), "maximum": number(most) })
    } else {
        panic!("not a range of numbers: {range:?}")
    }
}

/// Returns a Markdown text without link targets and code marks.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("](") {
        let (words, name) = before.rsplit_once('[').expect("a link has a text");
        plain += words;
        plain += name;
        rest = link.split_once(')').expect("a link has an end").1;
    }
    (plain + rest).replace('`', "")
}

/// Returns the rule for an object with these properties and no others.
fn object(properties: Map<String, Value>) -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// Puts a rule at a path. Missing objects on the way are created.
fn put(at: &mut Value, path: &str, rule: Value) {
    let properties = at["properties"].as_object_mut().expect("an object");
    match path.split_once('.') {
        None => {
            properties.insert(path.to_owned(), rule);
        }
        Some((first, rest)) => {
            let inner = properties.entry(first).or_insert_with(|| object(Map::new()));
            put(inner, rest, rule);
        }
    }
}

/// Collects every leaf of the schema by its path.
fn leaves(path: &str, at: &Value, into: &mut BTreeMap<String, Value>) {
    let Some(properties) = at["properties"].as_object() else {
        into.insert(path.to_owned(), at.clone());
        return;
    };
    for (key, value) in properties {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        leaves(&path, value, into);
    }
}

/// Returns whether the reader accepts a configuration with this value at this key.
fn takes(key: &str, value: Value) -> bool {
    let mut config = defaults();
    // Two keys depend on each other: each is tried with a value of the other that permits it.
    if key == "limits.targetBytesMax" {
        config["limits"]["headBytesMax"] = 60_000.into();
    } else {
        config["limits"]["targetBytesMax"] = 64.into();
    }
    if key == "reports.kind" {
        // An agent has a port of its own.
        config["reports"]["port"] = 1.into();
    }
    *config.pointer_mut(&format!("/{}", key.replace('.', "/"))).expect(key) = value;
    Config::from_json(&config.to_string()).is_ok()
}

fn number_for(form: &Value, number: f64) -> Value {
    if form["type"] == "integer" { json!(number as i64) } else { json!(number) }
}

fn defaults() -> Value {
    serde_json::to_value(Config::default()).expect("plain data")
}

fn schema() -> Value {
    serde_json::from_str(&read(&root().join(SCHEMA))).expect("JSON")
}
