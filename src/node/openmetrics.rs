//! A strict reader of the OpenMetrics text format, version 1.0, for tests: what it accepts, every reader
//! does. It knows counters, gauges and histograms, and neither exemplars nor timestamps.

use std::collections::BTreeMap;

/// One metric with its samples.
#[derive(Debug, Default)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// As declared; empty: none.
    pub unit: String,
    /// Its samples, in order.
    pub samples: Vec<Sample>,
    has_help: bool,
}

/// One line.
#[derive(Debug)]
pub struct Sample {
    /// With its suffix.
    pub name: String,
    /// As `name=value,...` in order of names.
    pub labels: String,
    /// The value.
    pub value: f64,
}

/// The metrics by name, or what is wrong with which line.
pub fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF and a line's end")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in body.split_terminator('\n') {
        let read = match line.strip_prefix("# ") {
            Some(rest) => read_metadata(rest, &mut current, &mut families),
            None => read_sample(line).and_then(|sample| {
                let family = families.get_mut(&current).ok_or("no metric was declared")?;
                family.samples.push(sample);
                Ok(())
            }),
        };
        read.map_err(|reason| format!("{line:?}: {reason}"))?;
    }
    for (name, family) in &families {
        check_family(name, family).map_err(|reason| format!("{name}: {reason}"))?;
    }
    Ok(families)
}

fn read_metadata(
    rest: &str,
    current: &mut String,
    families: &mut BTreeMap<String, Family>,
) -> Result<(), String> {
    let mut parts = rest.splitn(3, ' ');
    let mut next = || parts.next().ok_or("too few words".to_owned());
    let (what, name, text) = (next()?, next()?, next()?);
    is_name(name)?;
    if name != current {
        if families.contains_key(name) {
            return Err("its lines do not stand together".into());
        }
        families.insert(name.to_owned(), Family::default());
        name.clone_into(current);
    }
    let family = families.get_mut(name).ok_or("lost")?;
    if !family.samples.is_empty() {
        return Err("it is declared after its samples".into());
    }
    match what {
        "HELP" if family.has_help || text.is_empty() => Err("help twice, or none".into()),
        "HELP" if text.contains(['"', '\\']) => Err("help that would have to be escaped".into()),
        "HELP" => {
            family.has_help = true;
            Ok(())
        }
        "TYPE" if family.kind.is_empty() => match text {
            "counter" | "gauge" | "histogram" => {
                text.clone_into(&mut family.kind);
                Ok(())
            }
            _ => Err(format!("type {text:?}")),
        },
        "UNIT" if family.unit.is_empty() && name.ends_with(&format!("_{text}")) => {
            text.clone_into(&mut family.unit);
            Ok(())
        }
        _ => Err("unknown, there twice, or a unit that does not end the name".into()),
    }
}

fn read_sample(line: &str) -> Result<Sample, String> {
    let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, read_labels(rest.strip_suffix('}').ok_or("no }")?)?),
        None => (series, String::new()),
    };
    is_name(name)?;
    let value: f64 = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    if !value.is_finite() {
        return Err("a value that is no number".into());
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

fn read_labels(text: &str) -> Result<String, String> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=').ok_or("a label without value")?;
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let value = value.ok_or("a label's value without quotes")?;
        is_name(name)?;
        if value.contains(['"', '\\', '\n', ',']) {
            return Err(format!("{value:?} is more than this reader takes"));
        }
        if labels.insert(name, value).is_some() {
            return Err(format!("label {name} twice"));
        }
    }
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(labels.join(","))
}

fn is_name(name: &str) -> Result<(), String> {
    let fits = |char: char| char.is_ascii_alphanumeric() || char == '_';
    match name.starts_with(|char: char| char.is_ascii_alphabetic()) && name.chars().all(fits) {
        true => Ok(()),
        false => Err(format!("{name:?} is no name")),
    }
}

fn check_family(name: &str, family: &Family) -> Result<(), String> {
    if family.kind.is_empty() || !family.has_help {
        return Err("no type, or no help".into());
    }
    let mut seen = BTreeMap::new();
    for sample in &family.samples {
        let suffix = sample.name.strip_prefix(name).ok_or("a sample of another metric")?;
        let fits = match family.kind.as_str() {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            _ => ["_bucket", "_sum", "_count"].contains(&suffix),
        };
        if !fits || family.kind != "gauge" && sample.value < 0.0 {
            return Err(format!("{sample:?} does not fit a {}", family.kind));
        }
        if seen.insert((&sample.name, &sample.labels), ()).is_some() {
            return Err(format!("{sample:?} is there twice"));
        }
    }
    match family.kind == "histogram" {
        true => check_histogram(name, family),
        false => Ok(()),
    }
}

/// Of each series: buckets ascend, the last is `+Inf` and equals the count, and there is a sum.
fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in family.samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let (bounds, others): (Vec<&str>, Vec<&str>) =
            sample.labels.split(',').partition(|label| label.starts_with("le="));
        let [bound] = bounds[..] else { return Err("a bucket without le".into()) };
        let bound = bound.trim_start_matches("le=");
        let number: f64 = bound.parse().map_err(|_| format!("le {bound:?}"))?;
        // As Go writes it, so that equal bounds are equal texts everywhere.
        if bound != "+Inf" && bound != format!("{number:?}") {
            return Err(format!("le {bound:?} is written {number:?}"));
        }
        series.entry(others.join(",")).or_default().push((number, sample.value));
    }
    let of = |suffix: &str, labels: &str| {
        let name = format!("{name}{suffix}");
        let mut samples = family.samples.iter();
        samples
            .find(|sample| sample.name == name && sample.labels == labels)
            .map(|found| found.value)
    };
    for (labels, buckets) in &series {
        if !buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1) {
            return Err(format!("buckets of {labels:?} do not ascend"));
        }
        let last = buckets.last().filter(|last| last.0.is_infinite()).map(|last| last.1);
        if last.is_none() || of("_count", labels) != last || of("_sum", labels).is_none() {
            return Err(format!("{labels:?} lacks +Inf, its sum or its count"));
        }
    }
    match series.is_empty() {
        true => Err("a histogram without buckets".into()),
        false => Ok(()),
    }
}

#[test]
fn what_breaks_the_format_is_told() {
    let good =
        "# HELP a_bytes Text.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total 1\n";
    assert!(parse(&format!("{good}# EOF\n")).is_ok());
    let histogram = "# HELP h Text.\n# TYPE h histogram\nh_sum 1.0\nh_count 2\n";
    let buckets = "h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 2\n";
    assert!(parse(&format!("{histogram}{buckets}# EOF\n")).is_ok());
    for (text, reason) in [
        (good.to_owned(), "does not end"),
        (format!("{good}a_bytes_total 1\n# EOF\n"), "there twice"),
        (format!("{good}a_bytes 1\n# EOF\n"), "does not fit a counter"),
        (format!("{good}b_total 1\n# EOF\n"), "another metric"),
        (format!("{good}a_bytes_total{{x=\"y\"}} NaN\n# EOF\n"), "no number"),
        (format!("{good}a_bytes_total{{x=y}} 1\n# EOF\n"), "without quotes"),
        (good.replace("UNIT a_bytes bytes", "UNIT a_bytes seconds") + "# EOF\n", "unit"),
        (good.replace("# HELP a_bytes Text.\n", "") + "# EOF\n", "no help"),
        (format!("{histogram}# EOF\n"), "without buckets"),
        (format!("{histogram}h_bucket{{le=\"+Inf\"}} 3\n# EOF\n"), "lacks"),
        (format!("{histogram}{}# EOF\n", buckets.replace("0.5", "0.50")), "is written"),
        (format!("{histogram}{}# EOF\n", buckets.replace("} 1", "} 9")), "do not ascend"),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.contains(reason), "{error:?} lacks {reason:?}: {text}");
    }
}
