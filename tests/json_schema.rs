//! Holds what the program prints with `--json` to `docs/ublk-dm.schema.json`.
//!
//! It knows the keywords that the schema has, and no others: one that it does not know is a fault,
//! so that nothing in the schema goes unchecked. (A crate for all of JSON Schema doubles the build,
//! because it builds `serde_json` with other features.)

use serde_json::Value;

/// The schema.
pub struct Schema(Value);

impl Schema {
    /// Reads it.
    pub fn read() -> Schema {
        let text = include_str!("../docs/ublk-dm.schema.json");
        Schema(serde_json::from_str(text).expect("the schema is JSON"))
    }

    /// Asserts that each line of a text is an object of a verb, by its name in `$defs`. Returns the
    /// objects.
    pub fn assert_lines(&self, verb: &str, text: &str) -> Vec<Value> {
        text.lines().map(|line| self.assert_line(verb, line)).collect()
    }

    /// Asserts that a line is such an object.
    pub fn assert_line(&self, verb: &str, line: &str) -> Value {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|why| panic!("{verb}: {why}: {line}"));
        let faults = self.faults(verb, &value);
        assert!(faults.is_empty(), "{verb}: {faults:#?}\n{line}");
        value
    }

    /// What is wrong with an object.
    pub fn faults(&self, verb: &str, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        match self.0["$defs"].get(verb) {
            Some(schema) => self.judge(schema, value, verb, &mut faults),
            None => faults.push(format!("{verb}: not in the schema")),
        }
        faults
    }

    fn judge(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let mut wrong = |what: String| faults.push(format!("{at}: {what}: {value}"));
        let keywords = schema.as_object().expect("a schema is an object");
        for (keyword, rule) in keywords {
            let of = |rule: &Value| {
                let mut found = Vec::new();
                self.judge(rule, value, at, &mut found);
                found
            };
            let fits = |rules: &Value| list(rules).iter().filter(|one| of(one).is_empty()).count();
            match keyword.as_str() {
                "description" | "required" | "additionalProperties" => {}
                "$ref" => {
                    let name = rule.as_str().and_then(|path| path.strip_prefix("#/$defs/"));
                    let rule = &self.0["$defs"][name.expect("a part of the schema")];
                    of(rule).into_iter().for_each(|fault| faults.push(fault));
                    return self.judge_object(schema, value, at, faults);
                }
                "const" if value != rule => wrong(format!("not {rule}")),
                "enum" if !list(rule).contains(value) => wrong(format!("none of {rule}")),
                "type" if !is_one_of(value, rule) => wrong(format!("no {rule}")),
                "minimum" if value.as_f64() < rule.as_f64() && !value.is_null() => {
                    wrong(format!("less than {rule}"))
                }
                "anyOf" if fits(rule) == 0 => wrong("fits nothing".to_owned()),
                "oneOf" if fits(rule) != 1 => wrong(format!("fits {} of them", fits(rule))),
                "const" | "enum" | "type" | "minimum" | "anyOf" | "oneOf" => {}
                "properties" | "items" => {}
                other => wrong(format!("the schema has {other}, which is not known here")),
            }
        }
        self.judge_object(schema, value, at, faults);
    }

    /// The keys of an object, and the elements of a list.
    fn judge_object(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        if let (Some(rule), Some(elements)) = (schema.get("items"), value.as_array()) {
            for (index, element) in elements.iter().enumerate() {
                self.judge(rule, element, &format!("{at}[{index}]"), faults);
            }
        }
        let (Some(keys), Some(properties)) = (value.as_object(), schema["properties"].as_object())
        else {
            return;
        };
        for key in list(&schema["required"]).iter().filter_map(Value::as_str) {
            if !keys.contains_key(key) {
                faults.push(format!("{at}: lacks {key}"));
            }
        }
        for (key, value) in keys {
            match properties.get(key) {
                Some(rule) => self.judge(rule, value, &format!("{at}.{key}"), faults),
                None => faults.push(format!("{at}: the schema does not have {key}")),
            }
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether a value has a type, or one of several.
fn is_one_of(value: &Value, types: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    types.as_str().map_or_else(|| list(types).iter().filter_map(Value::as_str).any(is), is)
}
