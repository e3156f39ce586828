//! Measured figures: their medians, ratios and text.

use serde::Serialize;

/// The figures of one thing, one for each repetition, in order.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The middle figure, or the mean of the two middle ones; NaN without any.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// The ratios to another thing, repetition by repetition.
    pub(crate) fn ratio_to(&self, other: &Self) -> Self {
        self.zip_with(other, |this, that| this / that)
    }

    /// The sums with another thing, repetition by repetition.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        self.zip_with(other, |this, that| this + that)
    }

    /// The differences to another thing, repetition by repetition.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.zip_with(other, |this, that| this - that)
    }

    fn zip_with(&self, other: &Self, operation: fn(f64, f64) -> f64) -> Self {
        assert_eq!(self.0.len(), other.0.len(), "repetitions of both");
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(&this, &that)| operation(this, that)).collect())
    }

    pub(crate) fn scaled(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|figure| figure * factor).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The median; a dash without figures.
    pub(crate) fn median_text(&self, unit: Unit) -> String {
        if self.0.is_empty() {
            return "–".to_owned();
        }
        unit.text(self.median())
    }

    /// The median, followed by the lowest and the highest figure if their texts differ.
    pub(crate) fn text(&self, unit: Unit) -> String {
        let median = self.median_text(unit);
        let sorted = self.sorted();
        match (sorted.first(), sorted.last()) {
            (Some(&lowest), Some(&highest)) if unit.text(lowest) != unit.text(highest) => {
                format!("{median} ({}–{})", unit.text(lowest), unit.text(highest))
            }
            _ => median,
        }
    }
}

impl From<f64> for Samples {
    fn from(figure: f64) -> Self {
        Self(vec![figure])
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<Figures: IntoIterator<Item = f64>>(figures: Figures) -> Self {
        Self(figures.into_iter().collect())
    }
}

/// The unit of a figure, which decides its digits.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Unit {
    Number,
    Ratio,
    Seconds,
    Milliseconds,
    Microseconds,
    Megabytes,
    Bytes,
    Percent,
}

impl Unit {
    pub(crate) fn text(self, figure: f64) -> String {
        match self {
            Self::Number | Self::Bytes => with_separators(figure),
            Self::Ratio if figure < 10.0 => format!("{figure:.2}×"),
            Self::Ratio => format!("{figure:.0}×"),
            Self::Seconds | Self::Milliseconds | Self::Microseconds if figure < 10.0 => {
                format!("{figure:.2}")
            }
            Self::Percent => format!("{figure:.0} %"),
            _ => format!("{figure:.1}"),
        }
    }
}

/// The nearest whole number, with thousands separated by commas.
pub(crate) fn with_separators(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if figure <= -0.5 {
        text.insert(0, '−');
    }
    text
}
