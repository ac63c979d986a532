//! The registry's metrics as OTLP's: what `/metrics` shows, read and said again.
//!
//! | Prometheus | OTLP |
//! | --- | --- |
//! | counter | a sum that only grows, cumulative since the start of the process |
//! | gauge | a gauge |
//! | histogram | a histogram with the same bounds; counts per bucket, not up to it |
//! | name, labels | the same name, attributes; the unit follows the name's end |
//!
//! Invariant: there is one registry, so both ways show the same numbers under the same names, and
//! counting costs nothing more. Deliberately absent: summaries, which our registry does not make.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};

/// When something was counted, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period {
    pub(super) start: u64,
    pub(super) now: u64,
}

/// Reads what the registry renders, metric by metric; what is no line of a metric is passed over.
pub(super) fn read(text: &str, period: Period) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let mut family: Option<Family<'_>> = None;
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            metrics.extend(family.take().and_then(|family| family.into_metric(period)));
            let named = declared.split_once(' ');
            family = named.map(|(name, kind)| Family::new(name, kind));
        } else if !line.starts_with('#')
            && let Some(family) = &mut family
            && let Some(sample) = sample(line)
        {
            family.take(sample, period);
        }
    }
    metrics.extend(family.and_then(|family| family.into_metric(period)));
    metrics
}

/// Makes an attribute.
pub(super) fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Any::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

type Labels = Vec<(String, String)>;

/// One line.
struct Sample<'t> {
    name: &'t str,
    labels: Labels,
    value: &'t str,
}

/// All series of one name.
struct Family<'t> {
    name: &'t str,
    kind: &'t str,
    numbers: Vec<NumberDataPoint>,
    histograms: BTreeMap<Labels, Buckets>,
}

/// A histogram as it comes: bounds with the counts up to them.
#[derive(Default)]
struct Buckets {
    up_to: Vec<(f64, u64)>,
    sum: f64,
    count: u64,
}

impl<'t> Family<'t> {
    const fn new(name: &'t str, kind: &'t str) -> Self {
        Self {
            name,
            kind,
            numbers: Vec::new(),
            histograms: BTreeMap::new(),
        }
    }

    fn take(&mut self, mut sample: Sample<'_>, period: Period) {
        let Some(part) = sample.name.strip_prefix(self.name) else {
            return;
        };
        if self.kind != "histogram" {
            let value = number(self.kind, sample.value);
            if let Some(value) = value.filter(|_| part.is_empty()) {
                self.numbers.push(NumberDataPoint {
                    attributes: attributes(&sample.labels),
                    start_time_unix_nano: period.start,
                    time_unix_nano: period.now,
                    value: Some(value),
                    ..NumberDataPoint::default()
                });
            }
            return;
        }
        let place = sample.labels.iter().position(|(key, _)| key == "le");
        let bound = place.map(|place| sample.labels.remove(place).1);
        let buckets = self.histograms.entry(sample.labels).or_default();
        let count = || sample.value.parse().unwrap_or_default();
        match (part, bound) {
            ("_bucket", Some(bound)) => {
                if let Ok(bound) = bound.parse::<f64>() {
                    buckets.up_to.push((bound, count()));
                }
            }
            ("_sum", _) => buckets.sum = sample.value.parse().unwrap_or_default(),
            ("_count", _) => buckets.count = count(),
            _ => {}
        }
    }

    fn into_metric(self, period: Period) -> Option<Metric> {
        let temporality = i32::from(AggregationTemporality::Cumulative);
        let data = match self.kind {
            "counter" => Data::Sum(Sum {
                data_points: self.numbers,
                aggregation_temporality: temporality,
                is_monotonic: true,
            }),
            "gauge" => Data::Gauge(Gauge {
                data_points: self.numbers,
            }),
            "histogram" => {
                let points = self.histograms.into_iter();
                Data::Histogram(Histogram {
                    data_points: points
                        .map(|(labels, buckets)| buckets.into_point(&labels, period))
                        .collect(),
                    aggregation_temporality: temporality,
                })
            }
            _ => return None,
        };
        Some(Metric {
            name: self.name.to_owned(),
            unit: unit(self.name).to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }
}

impl Buckets {
    fn into_point(self, labels: &Labels, period: Period) -> HistogramDataPoint {
        let mut before = 0;
        let mut bucket_counts = Vec::with_capacity(self.up_to.len());
        for (_, count) in &self.up_to {
            bucket_counts.push(count.saturating_sub(before));
            before = *count;
        }
        // The last bucket has no bound.
        let bounds = self.up_to.into_iter().map(|(bound, _)| bound);
        HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: period.start,
            time_unix_nano: period.now,
            count: self.count,
            sum: Some(self.sum),
            bucket_counts,
            explicit_bounds: bounds.filter(|bound| bound.is_finite()).collect(),
            ..HistogramDataPoint::default()
        }
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    let labels = labels.iter();
    labels.map(|(key, value)| attribute(key, value)).collect()
}

/// Counters are whole, gauges never, so that a series keeps its type.
fn number(kind: &str, text: &str) -> Option<Value> {
    match kind {
        "counter" => text.parse().map(Value::AsInt).ok(),
        _ => text.parse().map(Value::AsDouble).ok(),
    }
}

/// Names end in their unit, after what only counters have.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "1",
    }
}

/// Reads `name{key="value",…} value`.
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at_checked(end)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    Some(Sample {
        name,
        labels,
        value: value.trim(),
    })
}

/// Reads labels up to the closing brace, and returns what follows it.
fn labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (key, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((key.to_owned(), value));
        rest = quoted.get(end..)?.strip_prefix('"')?;
    }
}

#[cfg(test)]
mod tests;
