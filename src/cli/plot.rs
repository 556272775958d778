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
const LABEL_HEIGHT: f64 = 15.0;
/// Of a letter on average, rather too much.
const LETTER_WIDTH: f64 = 7.0;
/// Rows above and below a point where its label may go.
const MOST_LABEL_ROWS: u32 = 8;
/// A label further from its point than this is joined to it by a line.
const FAR: f64 = 25.0;
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
    let at = |point: &Point| (scale.x(point.speed_mb_per_s), scale.y(point.ratio));
    let mut taken: Vec<Area> = points.iter().map(|point| Area::around(at(point))).collect();
    for point in points {
        let (x, y) = at(point);
        let name = format!("{} ({:.2})", point.name, point.ratio);
        let label = Label::place((x, y), name.chars().count() as f64 * LETTER_WIDTH, &taken);
        taken.push(label.area);
        if (label.at.1 - y).abs() > FAR {
            let (to_x, to_y) = label.at;
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\" stroke=\"#b0b0b0\"/>"
            );
        }
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"#1f6fb2\"/>");
        text(svg, label.at, label.anchor, "fill=\"#111111\"", &name);
    }
}

/// A rectangle of the page.
#[derive(Clone, Copy)]
struct Area {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// Where the name of a point goes.
struct Label {
    at: (f64, f64),
    anchor: &'static str,
    area: Area,
}

impl Label {
    /// Beside the point, above or below it: the first place that is free, or else the last tried.
    fn place((x, y): (f64, f64), width: f64, taken: &[Area]) -> Self {
        let label = |(sideways, down): (f64, f64)| {
            let at = (x + sideways, y + down);
            let left = if sideways > 0.0 { at.0 } else { at.0 - width };
            let (top, bottom) = (at.1 - LABEL_HEIGHT * 0.8, at.1 + LABEL_HEIGHT * 0.2);
            let anchor = if sideways > 0.0 { "start" } else { "end" };
            Self { at, anchor, area: Area { left, right: left + width, top, bottom } }
        };
        let heights = (0..MOST_LABEL_ROWS).flat_map(|row| {
            let further = f64::from(row) * LABEL_HEIGHT;
            [-8.0 - further, 18.0 + further]
        });
        let places = heights.flat_map(|down| [(9.0, down), (-9.0, down)]);
        let fits = |label: &Label| {
            let area = label.area;
            area.left > LEFT
                && area.right < WIDTH
                && area.top > TOP - LABEL_HEIGHT
                && area.bottom < HEIGHT - BOTTOM
                && !taken.iter().any(|other| other.overlaps(&area))
        };
        places.map(label).find(fits).unwrap_or_else(|| label((-9.0, -8.0)))
    }
}

impl Area {
    fn around((x, y): (f64, f64)) -> Self {
        Self { left: x - 6.0, right: x + 6.0, top: y - 6.0, bottom: y + 6.0 }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }
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
        let bottom = lowest.min(1.0).floor();
        Self {
            speeds: (below(slowest.max(0.01)), above(fastest.max(0.02))),
            ratios: (bottom, bottom + ((highest - bottom) * 1.2).max(0.2)),
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
        let (across, down) =
            (numbers(&at.join("\n"), "text", "x"), numbers(&at.join("\n"), "text", "y"));
        for (one, other) in [(0, 1), (1, 2), (0, 2)] {
            let apart = (down[one] - down[other]).abs() >= LABEL_HEIGHT;
            assert!(apart || (across[one] - across[other]).abs() >= 18.0, "{at:?}");
        }
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
