//! A plot as SVG: compression ratio against speed, one labelled point for each codec.

use std::fmt::Write;

/// One codec.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// Where it is across, on a logarithmic scale.
    pub speed_mb_per_s: f64,
    /// Where it is upwards.
    pub ratio: f64,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 64.0;
/// Labels closer than this, upwards, would run into each other.
const LABEL_HEIGHT: f64 = 15.0;
/// Steps of a scale, times a power of ten.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];

/// Where values are on the page.
struct Scale {
    speeds: (f64, f64),
    ratios: (f64, f64),
}

/// Draws the points. Without any there are axes and a remark.
pub fn ratio_against_speed(title: &str, points: &[Point]) -> String {
    let scale = Scale::of(points);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let (middle, bottom) = (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, HEIGHT - BOTTOM);
    text(&mut svg, (middle, 28.0), "middle", "font-size=\"16\" fill=\"#111111\"", title);
    axes(&mut svg, &scale);
    let style = "fill=\"#333333\"";
    text(&mut svg, (middle, bottom + 46.0), "middle", style, "packing speed of one thread, MB/s");
    let turned = format!("{style} transform=\"rotate(-90 20 {})\"", HEIGHT / 2.0);
    text(&mut svg, (20.0, HEIGHT / 2.0), "middle", &turned, "bytes before for each byte after");
    if points.is_empty() {
        text(&mut svg, (middle, HEIGHT / 2.0), "middle", style, "no block to be packed");
    }
    dots(&mut svg, &scale, points);
    svg + "</svg>\n"
}

fn axes(svg: &mut String, scale: &Scale) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64, colour: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
        );
    };
    for speed in scale.speed_ticks() {
        let x = scale.x(speed);
        line(x, TOP, x, bottom, "#e4e4e4");
    }
    for ratio in scale.ratio_ticks() {
        let y = scale.y(ratio);
        line(LEFT, y, right, y, "#e4e4e4");
    }
    line(LEFT, bottom, right, bottom, "#444444");
    line(LEFT, TOP, LEFT, bottom, "#444444");
    let style = "fill=\"#555555\"";
    for speed in scale.speed_ticks() {
        text(svg, (scale.x(speed), bottom + 20.0), "middle", style, &plain(speed));
    }
    for ratio in scale.ratio_ticks() {
        text(svg, (LEFT - 8.0, scale.y(ratio) + 4.0), "end", style, &plain(ratio));
    }
}

fn dots(svg: &mut String, scale: &Scale, points: &[Point]) {
    let mut placed: Vec<(f64, f64)> = Vec::new();
    for point in points {
        let (x, y) = (scale.x(point.speed_mb_per_s), scale.y(point.ratio));
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"#1f6fb2\"/>");
        // Past the middle a label goes to the left of its point, so that none leaves the page.
        let (anchor, shift) = if x > WIDTH * 0.75 { ("end", -9.0) } else { ("start", 9.0) };
        let mut label = (x + shift, y - 8.0);
        while placed.iter().any(|other| overlap(*other, label)) {
            label.1 -= LABEL_HEIGHT;
        }
        placed.push(label);
        let name = format!("{} ({:.2})", point.name, point.ratio);
        text(svg, label, anchor, "fill=\"#111111\"", &name);
    }
}

fn overlap(one: (f64, f64), other: (f64, f64)) -> bool {
    (one.0 - other.0).abs() < 90.0 && (one.1 - other.1).abs() < LABEL_HEIGHT - 1.0
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, style: &str, words: &str) {
    let words: String = words.chars().filter(|letter| !letter.is_control()).collect();
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>"
    );
}

impl Scale {
    fn of(points: &[Point]) -> Self {
        let least = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).fold(f64::MAX, f64::min);
        let most = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).fold(0.0, f64::max);
        if points.is_empty() {
            return Self { speeds: (100.0, 10_000.0), ratios: (1.0, 4.0) };
        }
        let (slowest, fastest) = (least(&|p| p.speed_mb_per_s), most(&|p| p.speed_mb_per_s));
        let (lowest, highest) = (least(&|p| p.ratio), most(&|p| p.ratio));
        Self {
            speeds: (below(slowest.max(0.01)), above(fastest.max(0.02))),
            ratios: (lowest.min(1.0).floor(), (highest * 1.15).max(2.0)),
        }
    }

    fn x(&self, speed: f64) -> f64 {
        let share = (speed.max(1e-3) / self.speeds.0).ln() / (self.speeds.1 / self.speeds.0).ln();
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, ratio: f64) -> f64 {
        let share = (ratio - self.ratios.0) / (self.ratios.1 - self.ratios.0);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn speed_ticks(&self) -> Vec<f64> {
        let all = (-2..7).flat_map(|power| STEPS.map(|step| step * 10_f64.powi(power)));
        all.filter(|tick| (self.speeds.0 * 0.999..=self.speeds.1 * 1.001).contains(tick)).collect()
    }

    fn ratio_ticks(&self) -> Vec<f64> {
        let span = self.ratios.1 - self.ratios.0;
        let all = (-2..7).flat_map(|power| STEPS.map(|step| step * 10_f64.powi(power)));
        let step = all.into_iter().find(|step| span / step <= 8.0).unwrap_or(span);
        let first = (self.ratios.0 / step).ceil() as u64;
        let ticks = (first..).map(|index| index as f64 * step);
        ticks.take_while(|tick| *tick <= self.ratios.1).collect()
    }
}

/// The step at or below a value.
fn below(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    STEPS.iter().rev().map(|step| step * power).find(|step| *step <= value).unwrap_or(power)
}

/// The step above a value.
fn above(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    STEPS.iter().map(|step| step * power).find(|step| *step > value).unwrap_or(power * 10.0)
}

fn plain(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, speed_mb_per_s: f64, ratio: f64) -> Point {
        Point { name: name.to_owned(), speed_mb_per_s, ratio }
    }

    /// Numbers of an attribute, in the order of the page.
    fn numbers(svg: &str, element: &str, attribute: &str) -> Vec<f64> {
        let lines = svg.lines().filter(|line| line.starts_with(&format!("<{element} ")));
        let value = |line: &str| {
            let (_, rest) = line.split_once(&format!(" {attribute}=\"")).unwrap();
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        lines.map(value).collect()
    }

    #[test]
    fn points_stand_where_their_figures_put_them_and_stay_on_the_page() {
        let points = [
            point("lz4:8", 1100.0, 1.9),
            point("lz4", 820.0, 2.2),
            point("zstd:-1", 640.0, 2.6),
            point("zstd:6", 130.0, 3.1),
        ];
        let svg = ratio_against_speed("a <guest> & more", &points);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt;guest&gt; &amp; more") && svg.contains("zstd:6 (3.10)"));
        let (across, down) = (numbers(&svg, "circle", "cx"), numbers(&svg, "circle", "cy"));
        assert!(across.is_sorted_by(|a, b| a > b), "faster is further right: {across:?}");
        assert!(down.is_sorted_by(|a, b| a > b), "denser is higher: {down:?}");
        for (name, most) in [("x", WIDTH), ("y", HEIGHT)] {
            let places = numbers(&svg, "text", name);
            assert!(places.iter().all(|place| (0.0..=most).contains(place)), "{places:?}");
        }
    }

    #[test]
    fn labels_of_equal_points_do_not_cover_each_other() {
        let points = ["a", "b", "c"].map(|name| point(name, 500.0, 2.0));
        let svg = ratio_against_speed("t", &points);
        let at: Vec<&str> = svg.lines().filter(|line| line.contains("(2.00)")).collect();
        assert_eq!(at.len(), 3);
        assert!(at[0] != at[1] && at[1] != at[2]);
        let heights = numbers(&at.join("\n"), "text", "y");
        assert!(heights.windows(2).all(|pair| (pair[0] - pair[1]).abs() >= LABEL_HEIGHT - 1.0));
    }

    #[test]
    fn nothing_and_strange_figures_are_drawn_too() {
        assert!(ratio_against_speed("t", &[]).contains("no block to be packed"));
        for odd in [point("tiny", 1e-6, 1.0), point("huge", 1e6, 4000.0)] {
            let svg = ratio_against_speed("t", &[odd]);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.lines().count() < 80, "{}", svg.lines().count());
        }
    }
}
