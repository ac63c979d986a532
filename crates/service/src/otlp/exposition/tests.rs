//! Whether OTLP shows what the registry counted.

use metrics::{counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;

const PERIOD: Period = Period { start: 5, now: 9 };

fn labels_of(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
    let texts = attributes.iter().map(|attribute| {
        let value = attribute
            .value
            .as_ref()
            .and_then(|value| value.value.as_ref());
        let Some(Any::StringValue(text)) = value else {
            panic!("labels are texts: {value:?}");
        };
        (attribute.key.as_str(), text.as_str())
    });
    texts.collect()
}

/// Counts through the facade, and returns what comes out by name.
fn counted() -> Vec<Metric> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&[1.0, 2.5])
        .expect("buckets")
        .build_recorder();
    with_local_recorder(&recorder, || {
        let odd = "a \"quoted\\ text\",}\nof two lines";
        counter!("events_total", "result" => "ok", "odd" => odd).increment(u64::MAX >> 1);
        counter!("events_total", "result" => "bad").increment(2);
        counter!("waited_seconds_total").increment(3);
        gauge!("age_seconds").set(0.25);
        gauge!("below").set(-3.0);
        for value in [0.5, 1.0, 2.0, 99.5] {
            histogram!("size_bytes", "of" => "batch").record(value);
        }
        histogram!("size_bytes", "of" => "part").record(3.0);
    });
    let handle = recorder.handle();
    handle.run_upkeep();
    let mut metrics = read(&handle.render(), PERIOD);
    metrics.sort_by(|a, b| a.name.cmp(&b.name));
    metrics
}

/// What is counted comes out with the same names, labels and numbers.
#[test]
fn the_registry_is_said_again() {
    let metrics = counted();
    let names: Vec<_> = metrics
        .iter()
        .map(|m| (m.name.as_str(), m.unit.as_str()))
        .collect();
    let expected = [
        ("age_seconds", "s"),
        ("below", "1"),
        ("events_total", "1"),
        ("size_bytes", "By"),
        ("waited_seconds_total", "s"),
    ];
    assert_eq!(names, expected, "names and units");
    let [age, below, events, ..] = metrics.as_slice() else {
        panic!("five metrics");
    };
    let Some(Data::Gauge(age)) = &age.data else {
        panic!("a gauge: {age:?}");
    };
    assert_eq!(
        age.data_points[0].value,
        Some(Value::AsDouble(0.25)),
        "its value"
    );
    assert_eq!(age.data_points[0].time_unix_nano, 9, "its time");
    let Some(Data::Gauge(below)) = &below.data else {
        panic!("a gauge: {below:?}");
    };
    assert_eq!(
        below.data_points[0].value,
        Some(Value::AsDouble(-3.0)),
        "below none"
    );
    let Some(Data::Sum(events)) = &events.data else {
        panic!("a sum: {events:?}");
    };
    assert!(events.is_monotonic, "it only grows");
    assert_eq!(events.aggregation_temporality, 2, "cumulative");
    let mut points = events.data_points.iter().map(|point| {
        assert_eq!(point.start_time_unix_nano, 5, "since the start");
        (labels_of(&point.attributes), point.value)
    });
    let mut points = [points.next().expect("one"), points.next().expect("two")];
    points.sort_by_key(|(labels, _)| labels.len());
    assert_eq!(
        points[0],
        (vec![("result", "bad")], Some(Value::AsInt(2))),
        "one series"
    );
    let odd = vec![
        ("result", "ok"),
        ("odd", "a \"quoted\\ text\",}\nof two lines"),
    ];
    assert_eq!(points[1], (odd, Some(Value::AsInt(i64::MAX))), "the other");
}

/// Counts per bucket are told, where Prometheus has them up to a bound.
#[test]
fn histograms_have_each_buckets_own_count() {
    let metrics = counted();
    let sizes = metrics.iter().find(|metric| metric.name == "size_bytes");
    let sizes = sizes.expect("a metric");
    let Some(Data::Histogram(sizes)) = &sizes.data else {
        panic!("a histogram: {sizes:?}");
    };
    let batch = &sizes.data_points[0];
    assert_eq!(
        labels_of(&batch.attributes),
        [("of", "batch")],
        "without bounds"
    );
    assert_eq!(batch.explicit_bounds, [1.0, 2.5], "bounds");
    assert_eq!(batch.bucket_counts, [2, 1, 1], "each bucket's own");
    assert_eq!((batch.count, batch.sum), (4, Some(103.0)), "all of it");
    assert_eq!(
        sizes.data_points[1].bucket_counts,
        [0, 0, 1],
        "the other series"
    );
}

#[test]
fn what_is_no_metric_is_passed_over() {
    let text = "lost 1\n# HELP a b\n# TYPE a counter\na 1\nb 2\na{x=\"1\n\na{x=\"1\"} nothing\n# TYPE s summary\ns 1\n# TYPE\n";
    let metrics = read(text, PERIOD);
    assert_eq!(metrics.len(), 1, "{metrics:?}");
    let Some(Data::Sum(sum)) = &metrics[0].data else {
        panic!("a sum");
    };
    assert_eq!(sum.data_points.len(), 1, "{sum:?}");
}
