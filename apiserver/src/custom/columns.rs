//! The columns of a custom kind's table (`additionalPrinterColumns`).

use super::JsonPath;
use crate::kinds::Column;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use serde_json::Value;

/// A path that cannot be read shows nothing.
pub(super) struct Cell {
    kind: String,
    path: Option<JsonPath>,
}

/// The columns after the name, each with where its cells come from. Without any it is the age.
pub(super) fn of(defined: Option<&Vec<CustomResourceColumnDefinition>>) -> (Vec<Column>, Vec<Cell>) {
    let (mut columns, mut cells) = (vec![Column::name()], Vec::new());
    for column in defined.into_iter().flatten() {
        columns.push(Column {
            name: column.name.clone().into(),
            kind: column.type_.clone().into(),
            format: column.format.clone().unwrap_or_default().into(),
            priority: column.priority.unwrap_or(0),
            description: match column.description.as_deref().filter(|d| !d.is_empty()) {
                Some(text) => text.to_owned().into(),
                None => {
                    format!("Custom resource definition column (in JSONPath format): {}", column.json_path)
                        .into()
                }
            },
        });
        cells.push(Cell { kind: column.type_.clone(), path: JsonPath::parse(&column.json_path).ok() });
    }
    if cells.is_empty() {
        let mut age = Column::age();
        age.kind = "date".into();
        columns.push(age);
        let path = JsonPath::parse(".metadata.creationTimestamp").ok();
        cells.push(Cell { kind: "date".to_owned(), path });
    }
    (columns, cells)
}

impl Cell {
    pub(super) fn show(&self, object: &Value, now: Timestamp) -> Value {
        let Some(value) = self.path.as_ref().and_then(|p| p.first(object)) else { return Value::Null };
        match self.kind.as_str() {
            "string" => match value {
                Value::String(text) => text.clone().into(),
                Value::Null => "".into(),
                other => other.to_string().into(),
            },
            "integer" => match (value.as_i64(), value.as_f64()) {
                (Some(n), _) => n.into(),
                #[allow(clippy::cast_possible_truncation)] // as Kubernetes cuts it
                (None, Some(n)) => (n as i64).into(),
                _ => Value::Null,
            },
            "number" => value.as_f64().map_or(Value::Null, Value::from),
            "boolean" => value.as_bool().map_or(Value::Null, Value::from),
            "date" => match value.as_str().map(str::parse::<Timestamp>) {
                Some(Ok(time)) => api::age::since(Some(time), now).into(),
                Some(Err(_)) => "<invalid>".into(),
                None => Value::Null,
            },
            _ => Value::Null,
        }
    }
}
