//! Plots as inline SVG: the roofline on logarithmic axes, and strips of percentiles.

use std::fmt::Write;

use crate::measure::{Figures, Limits, OpFigure, OpsBench};

use super::super::show::{bandwidth, clipped, markup, number, percent, rate, seconds};
use super::super::suite::dtype_of;

/// Points that are drawn.
const POINTS: usize = 600;

/// A logarithmic axis; its ends are exponents of ten.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogAxis {
    low: f64,
    high: f64,
}

/// Multiples of the median at which a strip may end or have a tick.
const MULTIPLES: [f64; 14] = [0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0, 100.0];

impl LogAxis {
    /// Whole decades round a range of positive numbers.
    pub(super) fn round(low: f64, high: f64) -> LogAxis {
        let low = low.max(f64::MIN_POSITIVE).log10().floor();
        let high = high.max(f64::MIN_POSITIVE).log10().ceil();
        LogAxis { low, high: if high > low { high } else { low + 1.0 } }
    }

    /// From one multiple of a median to another, so that every strip fits between them or ends at the border.
    pub(super) fn of_multiples(low: f64, high: f64) -> LogAxis {
        let below = MULTIPLES.iter().rev().find(|m| **m <= low.min(0.9)).unwrap_or(&MULTIPLES[0]);
        let above = MULTIPLES.iter().find(|m| **m >= high.max(1.1)).unwrap_or(&MULTIPLES[MULTIPLES.len() - 1]);
        LogAxis { low: below.log10(), high: above.log10() }
    }

    /// The multiples between its ends that are far enough apart to be read, and where they stand; 1 is always one.
    pub(super) fn multiples(&self) -> Vec<(f64, f64)> {
        let inside = |m: &f64| m.log10() >= self.low - 1e-9 && m.log10() <= self.high + 1e-9;
        let mut kept = vec![(1.0, self.at(1.0))];
        let ends = [10f64.powf(self.low), 10f64.powf(self.high)];
        for m in ends.into_iter().chain(MULTIPLES.into_iter().filter(inside)) {
            let at = self.at(m);
            if kept.iter().all(|(_, other)| (at - other).abs() > 0.16) {
                kept.push((m, at));
            }
        }
        kept.sort_by(|a, b| a.1.total_cmp(&b.1));
        kept
    }

    /// Where a value stands, from 0 to 1.
    pub(super) fn at(&self, value: f64) -> f64 {
        ((value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The powers of ten, and where they stand.
    pub(super) fn decades(&self) -> Vec<(f64, f64)> {
        let all = self.low as i32..=self.high as i32;
        all.map(|e| (10f64.powi(e), (f64::from(e) - self.low) / (self.high - self.low))).collect()
    }
}

/// A strip of percentiles relative to their median, stretched to the width that it is given.
pub(super) fn strip(f: &Figures, axis: &LogAxis) -> String {
    let x = |v: f64| axis.at(v / f.p50) * 1000.0;
    let (min, p50, p90, p99) = (x(f.min), x(f.p50), x(f.p90), x(f.p99));
    let mut out = String::from("<svg viewBox=\"0 0 1000 22\" preserveAspectRatio=\"none\" role=\"img\">");
    let (a, b, c, d) = (seconds(f.min), seconds(f.p50), seconds(f.p90), seconds(f.p99));
    let _ = write!(out, "<title>min {a}, p50 {b}, p90 {c}, p99 {d}, n = {}</title>", f.count);
    for (_, at) in axis.multiples() {
        let at = at * 1000.0;
        let _ = write!(out, "<line class=\"tick\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"22\"/>");
    }
    let _ = write!(
        out,
        "<line class=\"whisker\" x1=\"{min:.1}\" x2=\"{p99:.1}\" y1=\"11\" y2=\"11\"/>\
         <rect class=\"box\" x=\"{p50:.1}\" y=\"5\" width=\"{:.1}\" height=\"12\"/>\
         <line class=\"median\" x1=\"{p50:.1}\" x2=\"{p50:.1}\" y1=\"3\" y2=\"19\"/>\
         <line class=\"tail\" x1=\"{p99:.1}\" x2=\"{p99:.1}\" y1=\"7\" y2=\"15\"/></svg>",
        (p90 - p50).max(0.5)
    );
    out
}

/// Whether a figure has a place in the roofline: it was verified, computes, and moves bytes.
pub(super) fn is_plotted(f: &OpFigure) -> bool {
    f.verified && f.flops > 0 && f.bytes > 0 && f.ops_per_s > 0.0 && f.ops_per_s.is_finite()
}

/// Where things stand in the plot, in pixels.
struct Frame {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: LogAxis,
    y: LogAxis,
}

impl Frame {
    fn x(&self, intensity: f64) -> f64 {
        self.left + self.x.at(intensity) * (self.width - self.left - self.right)
    }

    fn y(&self, ops: f64) -> f64 {
        self.height - self.bottom - self.y.at(ops) * (self.height - self.top - self.bottom)
    }
}

/// A rectangle that is taken.
#[derive(Clone, Copy)]
struct Taken {
    x0: f64,
    y0: f64,
    x1: f64,
    y1: f64,
}

impl Taken {
    fn meets(&self, other: &Taken) -> bool {
        self.x0 < other.x1 && other.x0 < self.x1 && self.y0 < other.y1 && other.y0 < self.y1
    }
}

/// The roofline for a wide and for a narrow page; nothing where no figure has a place in it.
pub(super) fn roofline(bench: &OpsBench) -> Option<(String, String)> {
    let figures: Vec<&OpFigure> = bench.figures.iter().filter(|f| is_plotted(f)).take(POINTS).collect();
    if figures.is_empty() {
        return None;
    }
    let intensity = |f: &OpFigure| f.flops as f64 / f.bytes as f64;
    let limits = || std::iter::once(&bench.measured).chain(&bench.declared);
    let ceilings = limits().flat_map(|l| l.ops_per_s.iter().map(|(_, v)| *v)).filter(|v| *v > 0.0 && v.is_finite());
    let ridges =
        limits().filter(|l| l.bytes_per_s > 0.0).flat_map(|l| l.ops_per_s.iter().map(|(_, v)| v / l.bytes_per_s));
    let least = |a: f64, b: f64| a.min(b);
    let xs = figures.iter().map(|f| intensity(f));
    let (x_low, x_high) = (xs.clone().fold(f64::INFINITY, least), xs.chain(ridges).fold(0.0, f64::max));
    let ys = figures.iter().map(|f| f.ops_per_s);
    let (y_low, y_high) = (ys.clone().fold(f64::INFINITY, least), ys.chain(ceilings).fold(0.0, f64::max));
    // Room above the highest roof for its name.
    let (x, y) = (LogAxis::round(x_low, x_high * 1.5), LogAxis::round(y_low, y_high * 1.6));
    let wide = Frame { width: 1008.0, height: 480.0, left: 92.0, right: 12.0, top: 14.0, bottom: 46.0, x, y };
    let narrow = Frame { width: 360.0, height: 380.0, left: 82.0, right: 8.0, top: 14.0, bottom: 42.0, x, y };
    Some((draw(bench, &figures, &wide, 14), draw(bench, &figures, &narrow, 4)))
}

fn draw(bench: &OpsBench, figures: &[&OpFigure], frame: &Frame, names: usize) -> String {
    let (w, h) = (frame.width, frame.height);
    let mut svg =
        format!("<svg viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" aria-label=\"roofline\">");
    axes(&mut svg, frame);
    let mut taken: Vec<Taken> = Vec::new();
    let limits: Vec<Roof> = bench.declared.iter().chain(Some(&bench.measured)).map(Roof::of).collect();
    limits.iter().for_each(|roof| roof.draw(&mut svg, frame, &mut taken));
    let dtypes = dtypes(figures);
    let points: Vec<(f64, f64)> =
        figures.iter().map(|f| (frame.x(f.flops as f64 / f.bytes as f64), frame.y(f.ops_per_s))).collect();
    for (figure, &(x, y)) in figures.iter().zip(&points) {
        let shape = dtypes.iter().position(|d| *d == dtype_at(figure)).unwrap_or(3).min(3);
        let share = figure.of_measured.map_or(String::new(), |s| format!(", {} of the measured limit", percent(s)));
        let (id, origin) = (markup(&clipped(&figure.id, 160)), markup(&clipped(&figure.origin, 120)));
        let (speed, p50) = (rate(figure.ops_per_s), seconds(figure.judged().p50));
        let title = format!("<title>{id} {origin} {speed}, p50 {p50}{share}</title>");
        let _ = write!(svg, "<g class=\"mark d{shape}\">{title}{}</g>", glyph(shape, x, y));
    }
    // A name keeps off the points themselves as well.
    let around = |&(x, y): &(f64, f64)| Taken { x0: x - 4.0, y0: y - 4.0, x1: x + 4.0, y1: y + 4.0 };
    taken.extend(points.iter().map(around));
    limits.iter().for_each(|roof| roof.label(&mut svg, frame, &mut taken));
    label(&mut svg, frame, figures, &points, &mut taken, names);
    legend(&mut svg, frame, &dtypes);
    svg.push_str("</svg>");
    svg
}

fn axes(svg: &mut String, frame: &Frame) {
    let (x0, x1) = (frame.left, frame.width - frame.right);
    let (y0, y1) = (frame.top, frame.height - frame.bottom);
    let decades = frame.x.decades();
    let every = decades.len().div_ceil(if frame.width > 500.0 { 10 } else { 5 }).max(1);
    for (i, (value, _)) in decades.iter().enumerate() {
        let x = frame.x(*value);
        let _ = write!(svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y0:.1}\" y2=\"{y1:.1}\"/>");
        if i % every == 0 {
            let label = number(*value);
            let anchor = if i == 0 {
                "start"
            } else if i + 1 == decades.len() {
                "end"
            } else {
                "middle"
            };
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{label}</text>", y1 + 16.0);
        }
    }
    for (value, _) in frame.y.decades() {
        let y = frame.y(value);
        let _ = write!(svg, "<line class=\"grid\" x1=\"{x0:.1}\" x2=\"{x1:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ =
            write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", x0 - 8.0, y + 4.0, rate(value));
    }
    let _ = write!(svg, "<path class=\"axis\" fill=\"none\" d=\"M{x0:.1} {y0:.1}V{y1:.1}H{x1:.1}\"/>");
    let _ = write!(svg, "<text x=\"{x1:.1}\" y=\"{:.1}\" text-anchor=\"end\">FLOP / byte</text>", y1 + 34.0);
}

/// One set of limits: a slope of bandwidth, and a ceiling for each dtype.
struct Roof {
    /// `measured` or `declared`.
    class: &'static str,
    bytes_per_s: Option<f64>,
    /// Ceilings from the highest to the lowest; dtypes whose ceilings are within 3 % share one.
    ceilings: Vec<(String, f64)>,
}

impl Roof {
    fn of(limits: &Limits) -> Roof {
        let known = |v: f64| (v > 0.0 && v.is_finite()).then_some(v);
        let mut sorted: Vec<(&str, f64)> =
            limits.ops_per_s.iter().filter_map(|(d, v)| Some((d.as_str(), known(*v)?))).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut ceilings: Vec<(String, f64)> = Vec::new();
        for (dtype, v) in sorted {
            let dtype = clipped(dtype, 12);
            match ceilings.last_mut() {
                Some((names, top)) if v > *top * 0.97 => *names = format!("{names}, {dtype}"),
                _ => ceilings.push((dtype, v)),
            }
        }
        ceilings.truncate(8);
        let class = if limits.kind == "declared" { "declared" } else { "measured" };
        Roof { class, bytes_per_s: known(limits.bytes_per_s), ceilings }
    }

    /// The ends of the slope, in pixels: where it enters the plot, and where the highest ceiling begins.
    fn slope(&self, frame: &Frame) -> Option<[(f64, f64); 2]> {
        let (bandwidth, (_, top)) = (self.bytes_per_s?, self.ceilings.first()?);
        let (x_low, y_low) = (10f64.powf(frame.x.low), 10f64.powf(frame.y.low));
        let from = x_low.max(y_low / bandwidth);
        let to = (top / bandwidth).max(from);
        Some([from, to].map(|x| (frame.x(x), frame.y(x * bandwidth))))
    }

    fn draw(&self, svg: &mut String, frame: &Frame, taken: &mut Vec<Taken>) {
        let right = frame.width - frame.right;
        if let Some([(xa, ya), (xb, yb)]) = self.slope(frame) {
            let _ = write!(svg, "<path class=\"roof {}\" d=\"M{xa:.1} {ya:.1}L{xb:.1} {yb:.1}\"/>", self.class);
            for i in 0..60 {
                let f = f64::from(i) / 60.0;
                let (x, y) = (xa + (xb - xa) * f, ya + (yb - ya) * f);
                taken.push(Taken { x0: x - 3.0, y0: y - 3.0, x1: x + 3.0, y1: y + 3.0 });
            }
        }
        for (_, v) in &self.ceilings {
            let y = frame.y(*v);
            let from = self.bytes_per_s.map_or(frame.left, |b| frame.x(v / b));
            let _ = write!(svg, "<path class=\"roof {}\" d=\"M{from:.1} {y:.1}H{right:.1}\"/>", self.class);
            taken.push(Taken { x0: from, y0: y - 1.5, x1: right, y1: y + 1.5 });
        }
    }

    /// Names the slope and the ceilings, each at the first place that is free.
    fn label(&self, svg: &mut String, frame: &Frame, taken: &mut Vec<Taken>) {
        let right = frame.width - frame.right;
        let mut write_at = |text: &str, places: &[(f64, f64)]| {
            let width = text.chars().count() as f64 * 6.5;
            for &(x, y) in places {
                let x = x.clamp(frame.left + 4.0, (right - width).max(frame.left + 4.0));
                let rect = Taken { x0: x, y0: y - 11.0, x1: x + width, y1: y + 3.5 };
                if rect.y0 > 0.0 && !taken.iter().any(|t| t.meets(&rect)) {
                    let text = markup(text);
                    let _ = write!(svg, "<text class=\"halo\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
                    taken.push(rect);
                    return;
                }
            }
        };
        for (dtypes, v) in &self.ceilings {
            let text = format!("{dtypes} {} {}", rate(*v), self.class);
            let (width, y) = (text.chars().count() as f64 * 6.5, frame.y(*v));
            let places: Vec<(f64, f64)> = [0.0, 0.5, 1.0, 1.5]
                .iter()
                .flat_map(|w| [-5.0, 14.0].map(|dy| (right - width * (1.0 + w), y + dy)))
                .collect();
            write_at(&text, &places);
        }
        if let (Some([(xa, ya), (xb, yb)]), Some(bandwidth_limit)) = (self.slope(frame), self.bytes_per_s) {
            let text = format!("{} {}", bandwidth(bandwidth_limit), self.class);
            let width = text.chars().count() as f64 * 6.5;
            // The declared roof is the higher one: its name stands above the slope, the measured one's below.
            let beside = |f: f64| {
                let (x, y) = (xa + (xb - xa) * f, ya + (yb - ya) * f);
                if self.class == "declared" { (x - width - 10.0, y - 4.0) } else { (x + 10.0, y + 14.0) }
            };
            write_at(&text, &[0.55, 0.45, 0.65, 0.35, 0.75, 0.25, 0.85, 0.15].map(beside));
        }
    }
}

fn dtype_at(figure: &OpFigure) -> &str {
    let dtype = figure.id.rsplit_once('/').map_or("", |(path, _)| dtype_of(path));
    if dtype.is_empty() { "?" } else { dtype }
}

/// The dtypes in the plot, the most frequent first; the fourth and those behind it share a shape.
fn dtypes<'a>(figures: &[&'a OpFigure]) -> Vec<&'a str> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for figure in figures {
        let dtype = dtype_at(figure);
        match counts.iter_mut().find(|(d, _)| *d == dtype) {
            Some((_, n)) => *n += 1,
            None => counts.push((dtype, 1)),
        }
    }
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    counts.into_iter().map(|(d, _)| d).collect()
}

/// A shape of its own for each dtype, so that colour is not needed.
fn glyph(shape: usize, x: f64, y: f64) -> String {
    match shape {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"),
        1 => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\"/>", x - 4.0, y - 4.0),
        2 => format!("<path d=\"M{x:.1} {:.1}l5 9h-10z\"/>", y - 5.5),
        _ => format!("<path d=\"M{x:.1} {:.1}l5 5.5-5 5.5-5-5.5z\"/>", y - 5.5),
    }
}

/// Names the points that are furthest below their limits, one of each operator, where a name finds room.
fn label(
    svg: &mut String,
    frame: &Frame,
    figures: &[&OpFigure],
    points: &[(f64, f64)],
    taken: &mut Vec<Taken>,
    most: usize,
) {
    let mut order: Vec<usize> = (0..figures.len()).collect();
    let share = |i: usize| figures[i].of_measured.unwrap_or(f64::INFINITY);
    order.sort_by(|a, b| share(*a).total_cmp(&share(*b)));
    let mut named: Vec<&str> = Vec::new();
    for i in order {
        let op = figures[i].id.split('/').nth(1).unwrap_or(&figures[i].id);
        if named.len() >= most || named.contains(&op) {
            continue;
        }
        let text = clipped(op, 28);
        let (x, y) = points[i];
        let (width, height) = (text.chars().count() as f64 * 6.3, 13.0);
        let places = [
            (8.0, 4.0),
            (-8.0 - width, 4.0),
            (-width / 2.0, -9.0),
            (-width / 2.0, 18.0),
            (8.0, -8.0),
            (8.0, 16.0),
            (-8.0 - width, -8.0),
            (-8.0 - width, 16.0),
        ];
        for (dx, dy) in places {
            let rect = Taken { x0: x + dx, y0: y + dy - height + 3.0, x1: x + dx + width, y1: y + dy + 3.0 };
            let inside = rect.x0 > frame.left
                && rect.x1 < frame.width - frame.right
                && rect.y0 > frame.top
                && rect.y1 < frame.height - frame.bottom;
            if inside && !taken.iter().any(|t| t.meets(&rect)) {
                let (x, y) = (x + dx, y + dy);
                let _ = write!(svg, "<text class=\"point halo\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", markup(&text));
                taken.push(rect);
                named.push(op);
                break;
            }
        }
    }
}

fn legend(svg: &mut String, frame: &Frame, dtypes: &[&str]) {
    let mut x = frame.left;
    let y = frame.height - 8.0;
    for (shape, dtype) in dtypes.iter().take(4).enumerate() {
        let text = if shape == 3 && dtypes.len() > 4 { format!("{dtype}, …") } else { (*dtype).to_string() };
        let text = clipped(&text, 16);
        let _ = write!(svg, "<g class=\"mark d{shape}\">{}</g>", glyph(shape, x + 5.0, y - 4.0));
        let _ = write!(svg, "<text x=\"{:.1}\" y=\"{y:.1}\">{}</text>", x + 15.0, markup(&text));
        x += 30.0 + text.chars().count() as f64 * 6.6;
    }
}
