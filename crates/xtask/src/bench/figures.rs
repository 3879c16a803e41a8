//! Owns the form of what a benchmark finds: tables of figures, notes, and what was aimed at.

use api::summary::Summary;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// What one part of a run found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Findings {
    /// How it was measured, in sentences.
    pub how: String,
    /// What was aimed at.
    pub targets: Vec<Target>,
    /// The figures.
    pub tables: Vec<Table>,
    /// What a reader should know beside them.
    pub notes: Vec<String>,
}

/// A part of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Its number, as `--only` takes it.
    pub number: u32,
    /// What it is about.
    pub title: Cow<'static, str>,
    /// How busy others kept the machine right before it, in percent of all processors.
    pub others_busy_percent: f64,
    /// How long it took.
    pub seconds: f64,
    /// Why it was not finished, if it was not.
    pub error: Option<String>,
    /// What it found.
    #[serde(flatten)]
    pub found: Findings,
}

/// A figure that was aimed at. Nothing fails if it is missed: machines differ.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// What it is.
    pub what: String,
    /// Its unit.
    pub unit: Cow<'static, str>,
    /// What it should be.
    pub bound: Bound,
    /// What was measured.
    pub found: f64,
    /// Whether it is within.
    pub reached: bool,
}

/// Where a figure should lie.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Here or below.
    AtMost(f64),
    /// Here or above.
    AtLeast(f64),
}

impl Target {
    /// A figure that should not be larger than `limit`.
    pub fn at_most(what: impl Into<String>, unit: &'static str, limit: f64, found: f64) -> Self {
        Self {
            what: what.into(),
            unit: unit.into(),
            bound: Bound::AtMost(limit),
            found,
            reached: found <= limit,
        }
    }

    /// A figure that should not be smaller than `limit`.
    pub fn at_least(what: impl Into<String>, unit: &'static str, limit: f64, found: f64) -> Self {
        Self {
            what: what.into(),
            unit: unit.into(),
            bound: Bound::AtLeast(limit),
            found,
            reached: found >= limit,
        }
    }
}

/// What stands in one field of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Many measurements.
    Spread(Summary),
    /// One number.
    Number(f64),
    /// How many there were.
    Count(u64),
    /// Words.
    Words(String),
    /// It was not measured.
    Unknown,
}

impl From<Summary> for Cell {
    fn from(summary: Summary) -> Self {
        Self::Spread(summary)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        if number.is_finite() { Self::Number(number) } else { Self::Unknown }
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<&str> for Cell {
    fn from(words: &str) -> Self {
        Self::Words(words.to_owned())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::Unknown, Into::into)
    }
}

impl Cell {
    fn value(&self) -> Value {
        match self {
            Self::Spread(summary) => json!(summary),
            Self::Number(number) => json!(number),
            Self::Count(count) => json!(count),
            Self::Words(words) => json!(words),
            Self::Unknown => Value::Null,
        }
    }

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Unknown),
            Value::Number(number) => {
                number.as_u64().map(Self::Count).or_else(|| number.as_f64().map(Self::Number))
            }
            Value::String(words) => Some(Self::Words(words.clone())),
            other => serde_json::from_value(other.clone()).ok().map(Self::Spread),
        }
    }

    /// Its one number: of many measurements the median.
    pub fn middle(&self) -> Option<f64> {
        match self {
            Self::Spread(summary) => Some(summary.median),
            Self::Number(number) => Some(*number),
            Self::Count(count) => Some(*count as f64),
            Self::Words(_) | Self::Unknown => None,
        }
    }

    /// What 99 of 100 measurements do not exceed.
    pub fn p99(&self) -> Option<f64> {
        match self {
            Self::Spread(summary) => Some(summary.p99),
            _ => None,
        }
    }
}

/// A column: its name for programs and its heading for people, which tells the unit.
pub type Column = (&'static str, &'static str);

/// Rows of figures of the same kinds.
#[derive(Clone, Debug)]
pub struct Table {
    /// What the rows are about.
    pub title: String,
    /// The columns, as in [`Column`]; the first says what a row is.
    pub columns: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// A name and a cell for each further column.
    pub rows: Vec<(String, Vec<Cell>)>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: impl Into<String>, columns: &[Column]) -> Self {
        let columns = columns.iter().map(|&(name, heading)| (name.into(), heading.into())).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, name: impl Into<String>, cells: [Cell; N]) {
        assert_eq!(N + 1, self.columns.len(), "a cell for every column of `{}`", self.title);
        self.rows.push((name.into(), cells.to_vec()));
    }

    /// The name of each row and what stands in one of its columns.
    pub fn column(&self, name: &str) -> impl Iterator<Item = (&str, &Cell)> {
        let at = self.columns.iter().skip(1).position(|(key, _)| key == name);
        self.rows.iter().filter_map(move |(row, cells)| Some((row.as_str(), cells.get(at?)?)))
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = |(name, cells): &(String, Vec<Cell>)| {
            let values = std::iter::once(json!(name)).chain(cells.iter().map(Cell::value));
            let named = self.columns.iter().map(|(key, _)| key.to_string()).zip(values);
            Value::Object(named.collect::<Map<_, _>>())
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json!({ "title": self.title, "columns": self.columns, "rows": rows }).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Written {
            title: String,
            columns: Vec<(String, String)>,
            rows: Vec<Map<String, Value>>,
        }
        let Written { title, columns, rows } = Written::deserialize(deserializer)?;
        let read = |row: &Map<String, Value>| {
            let mut keys = columns.iter().map(|(key, _)| row.get(key));
            let name = keys.next()??.as_str()?.to_owned();
            Some((name, keys.map(|value| Cell::of(value?)).collect::<Option<Vec<Cell>>>()?))
        };
        let rows =
            rows.iter().map(|row| read(row).ok_or_else(|| D::Error::custom("a row without its cells")));
        let rows = rows.collect::<Result<_, _>>()?;
        let columns = columns.into_iter().map(|(key, heading)| (key.into(), heading.into())).collect();
        Ok(Self { title, columns, rows })
    }
}

/// A straight line through points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Its height at zero.
    pub fixed: f64,
    /// How much it rises with each unit.
    pub slope: f64,
}

impl Line {
    /// The line with the least squares of distances; none for fewer than two different places.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let count = points.len() as f64;
        let (x, y) =
            points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
        let (mut across, mut along) = (0.0, 0.0);
        for point in points {
            along += (point.0 - x) * (point.0 - x);
            across += (point.0 - x) * (point.1 - y);
        }
        let slope = across / along;
        slope.is_finite().then_some(Self { fixed: y - slope * x, slope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_again_and_one_place_has_none() {
        let points = [(1.0, 3.5), (10.0, 8.0), (100.0, 53.0)];
        let line = Line::through(&points).expect("three places");
        assert!((line.fixed - 3.0).abs() < 1e-9 && (line.slope - 0.5).abs() < 1e-9, "{line:?}");
        assert_eq!(Line::through(&[(2.0, 1.0), (2.0, 5.0)]), None);
        assert_eq!(Line::through(&[]), None);
    }

    #[test]
    fn rows_are_objects_for_programs_and_what_is_unknown_is_null() {
        let mut table =
            Table::new("Pauses", &[("what", "what"), ("pause_ms", "pause, ms"), ("ratio", "ratio")]);
        table.row("bare", [Summary::of([1.0, 2.0, 3.0]).into(), f64::NAN.into()]);
        let value = serde_json::to_value(&table).expect("JSON");
        assert_eq!(value["rows"][0]["what"], "bare");
        assert_eq!(value["rows"][0]["pause_ms"]["median"], 2.0);
        assert_eq!(value["rows"][0]["ratio"], Value::Null);
    }

    #[test]
    fn figures_that_were_kept_are_read_as_they_were() {
        let mut table = Table::new("Pauses", &[("what", "what"), ("ms", "pause, ms"), ("told", "told")]);
        table.row("bare", [Summary::of([1.0, 2.0, 3.0]).into(), "none".into()]);
        table.row("other", [2.5.into(), Cell::Unknown]);
        let found = Findings {
            how: "so".into(),
            targets: vec![Target::at_least("x", "%", 80.0, 79.9)],
            tables: vec![table],
            notes: vec!["note".into()],
        };
        let text = serde_json::to_string(&found).expect("JSON");
        let read: Findings = serde_json::from_str(&text).expect("figures");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), text);
        let cells: Vec<_> = read.tables[0].column("ms").map(|(row, cell)| (row, cell.middle())).collect();
        assert_eq!(cells, [("bare", Some(2.0)), ("other", Some(2.5))]);
        assert_eq!(read.tables[0].column("nothing").count(), 0);
        let without = text.replace("\"told\":\"none\",", "");
        assert!(serde_json::from_str::<Findings>(&without).is_err(), "{without}");
    }

    #[test]
    fn a_target_is_reached_at_its_bound() {
        assert!(Target::at_most("x", "ms", 2.5, 2.5).reached);
        assert!(!Target::at_most("x", "ms", 2.5, 2.6).reached);
        assert!(Target::at_least("x", "%", 80.0, 80.0).reached);
        assert!(!Target::at_least("x", "%", 80.0, 79.9).reached);
    }
}
