//! What changes over a long run: a bounded series of means, and the straight line through it.

use serde::Serialize;

/// The straight line of least squares through points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    /// Change of y per unit of x.
    pub(crate) slope: f64,
    /// The standard error of the slope: √(Σ residual² / (n − 2) / Σ (x − x̄)²).
    pub(crate) stderr: f64,
}

impl Line {
    /// The line through points; `None` for fewer than three, or where all have one x.
    pub(crate) fn through(points: &[(f64, f64)]) -> Option<Line> {
        let n = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
        let (x0, y0) = (mean(|p| p.0), mean(|p| p.1));
        let xx: f64 = points.iter().map(|(x, _)| (x - x0).powi(2)).sum();
        if points.len() < 3 || xx == 0.0 {
            return None;
        }
        let slope = points.iter().map(|(x, y)| (x - x0) * (y - y0)).sum::<f64>() / xx;
        let residual: f64 = points.iter().map(|(x, y)| (y - y0 - slope * (x - x0)).powi(2)).sum();
        Some(Line { slope, stderr: (residual / (n - 2.0) / xx).sqrt() })
    }
}

/// The most windows of a series.
const WINDOWS: usize = 1024;

/// Values over time in at most [`WINDOWS`] windows of equally many values each: when they are full, neighbours become one.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    windows: Vec<(f64, f64)>,
    /// Values a window.
    stride: u32,
    open: (f64, f64, u32),
}

impl Series {
    pub(crate) fn new() -> Series {
        Series { windows: Vec::with_capacity(WINDOWS), stride: 1, open: (0.0, 0.0, 0) }
    }

    /// Adds a value at a time in seconds.
    pub(crate) fn add(&mut self, seconds: f64, value: f64) {
        let (x, y, n) = self.open;
        self.open = (x + seconds, y + value, n + 1);
        if n + 1 < self.stride {
            return;
        }
        let count = f64::from(self.stride);
        self.windows.push(((x + seconds) / count, (y + value) / count));
        self.open = (0.0, 0.0, 0);
        if self.windows.len() == WINDOWS {
            let half = |pair: &[(f64, f64)]| ((pair[0].0 + pair[1].0) / 2.0, (pair[0].1 + pair[1].1) / 2.0);
            let merged: Vec<_> = self.windows.chunks_exact(2).map(half).collect();
            self.windows.clear();
            self.windows.extend(merged);
            self.stride *= 2;
        }
    }

    /// The mean time and mean value of every full window.
    pub(crate) fn windows(&self) -> &[(f64, f64)] {
        &self.windows
    }
}

/// The change of one figure over a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trend {
    /// The unit of the figure.
    pub unit: &'static str,
    /// Its mean over the run.
    pub mean: f64,
    /// Its mean over the first tenth of the run's time.
    pub first_tenth: f64,
    /// Its mean over the last tenth of the run's time.
    pub last_tenth: f64,
    /// The slope of the least-squares line through its values over time, per hour. Absent for fewer than three windows.
    pub slope_per_hour: Option<f64>,
    /// The standard error of that slope. Values that hang together in time make it too small.
    pub stderr_per_hour: Option<f64>,
    /// What the line says of the whole run: slope × its length, as a share of the mean.
    pub change: Option<f64>,
    /// Windows that the line goes through.
    pub windows: usize,
    /// Mean time in seconds and mean value of every window, for drawing.
    pub series: Vec<(f64, f64)>,
}

/// Slopes within this many standard errors of 0 are noise: three, as 99.7 % of normal errors are within.
const ERRORS: f64 = 3.0;

/// Windows below which nothing is said of a trend.
const FEW: usize = 10;

impl Trend {
    /// The trend of a series; `None` before the first window.
    pub(crate) fn of(series: &Series, unit: &'static str) -> Option<Trend> {
        let points = series.windows();
        let (&(start, _), &(end, _)) = (points.first()?, points.last()?);
        let tenth = (end - start) / 10.0;
        let mean = |keep: &dyn Fn(f64) -> bool| {
            let kept: Vec<f64> = points.iter().filter(|(x, _)| keep(*x)).map(|(_, y)| *y).collect();
            kept.iter().sum::<f64>() / kept.len() as f64
        };
        let all = mean(&|_| true);
        let line = Line::through(points);
        let share = |line: Line| if all == 0.0 { 0.0 } else { line.slope * (end - start) / all };
        Some(Trend {
            unit,
            mean: all,
            first_tenth: mean(&|x| x <= start + tenth),
            last_tenth: mean(&|x| x >= end - tenth),
            slope_per_hour: line.map(|line| line.slope * 3600.0),
            stderr_per_hour: line.map(|line| line.stderr * 3600.0),
            change: line.map(share),
            windows: points.len(),
            series: points.to_vec(),
        })
    }

    /// Whether the figure moves: by more than three standard errors, and over the run by more than `share` of its mean.
    /// `None` where the run was too short to tell.
    pub fn moves(&self, share: f64) -> Option<bool> {
        if self.windows < FEW {
            return None;
        }
        let (slope, stderr) = (self.slope_per_hour?, self.stderr_per_hour?);
        Some(slope.abs() > ERRORS * stderr && self.change?.abs() > share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_through_points_on_a_line_has_no_error() {
        let line = Line::through(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (5.0, 11.0)]).unwrap();
        assert!((line.slope - 2.0).abs() < 1e-12 && line.stderr < 1e-12, "{line:?}");
    }

    #[test]
    fn the_standard_error_is_that_of_the_text_books() {
        // y = 1, 2, 2, 4 at x = 0, 1, 2, 3: slope 0.9, residual sum 0.7, stderr √(0.7 / 2 / 5).
        let line = Line::through(&[(0.0, 1.0), (1.0, 2.0), (2.0, 2.0), (3.0, 4.0)]).unwrap();
        assert!((line.slope - 0.9).abs() < 1e-12, "{line:?}");
        assert!((line.stderr - 0.07f64.sqrt()).abs() < 1e-12, "{line:?}");
    }

    #[test]
    fn too_few_points_have_no_line() {
        assert_eq!(Line::through(&[(0.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(Line::through(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(Trend::of(&Series::new(), "x"), None);
    }

    /// A series of `n` values, one a second.
    fn series(n: u32, value: impl Fn(f64) -> f64) -> Series {
        let mut series = Series::new();
        (0..n).for_each(|i| series.add(f64::from(i), value(f64::from(i))));
        series
    }

    #[test]
    fn a_long_series_stays_small_and_keeps_its_slope() {
        let long = series(100_000, |x| 50.0 - x / 10_000.0);
        assert!(long.windows().len() < WINDOWS && long.windows().len() >= WINDOWS / 2 - 1);
        let trend = Trend::of(&long, "tokens/s").unwrap();
        assert!((trend.slope_per_hour.unwrap() + 0.36).abs() < 1e-6, "{:?}", trend.slope_per_hour);
        assert!((trend.first_tenth - 49.5).abs() < 0.1 && (trend.last_tenth - 40.5).abs() < 0.1);
        assert_eq!(trend.moves(0.02), Some(true));
    }

    #[test]
    fn noise_is_no_trend_and_a_slope_below_the_share_is_none_either() {
        let mut state = 1;
        let noise: Vec<f64> =
            (0..500).map(|_| super::super::figures::splitmix(&mut state) as f64 / u64::MAX as f64).collect();
        let noisy = series(500, |x| 10.0 + noise[x as usize]);
        assert_eq!(Trend::of(&noisy, "tokens/s").unwrap().moves(0.02), Some(false));
        let faint = series(500, |x| 10.0 + x / 100_000.0);
        assert_eq!(Trend::of(&faint, "tokens/s").unwrap().moves(0.02), Some(false));
        assert_eq!(Trend::of(&series(9, |x| x), "tokens/s").unwrap().moves(0.02), None);
    }
}
