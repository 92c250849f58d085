//! Smallest, middle and largest of a few numbers, and of the ratios of pairs of them.

use serde::Serialize;

/// What repeated measurements come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Of at least one number.
    pub(crate) fn of(numbers: &[f64]) -> Self {
        let sorted = sorted(numbers);
        Self { min: quantile(&sorted, 0.0), median: quantile(&sorted, 0.5), max: quantile(&sorted, 1.0) }
    }

    /// Of the ratios `ours / theirs`, each of two measurements that followed one another.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    }
}

/// The numbers in order.
pub(crate) fn sorted(numbers: &[f64]) -> Vec<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The number below which the share `q` of the sorted numbers lies, interpolated; NaN of none.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * place.fract()
}

/// Three digits that count.
pub(crate) fn number(number: f64) -> String {
    if !number.is_finite() {
        return "none".into();
    }
    let digits = match number.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{number:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert_eq!(Summary::of(&[4.0, 1.0, 3.0, 2.0]), Summary { min: 1.0, median: 2.5, max: 4.0 });
    }

    #[test]
    fn one_number_is_all_three() {
        assert_eq!(Summary::of(&[7.0]), Summary { min: 7.0, median: 7.0, max: 7.0 });
    }

    #[test]
    fn ratios_are_of_pairs_and_not_of_the_summaries() {
        // A machine that was slow during the second pair changes no ratio.
        let ratios = Summary::of_ratios(&[1.0, 100.0, 2.0], &[2.0, 200.0, 4.0]);
        assert_eq!(ratios, Summary { min: 0.5, median: 0.5, max: 0.5 });
    }

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        let numbers = sorted(&[30.0, 10.0, 20.0]);
        assert_eq!((quantile(&numbers, 0.75), quantile(&numbers, 0.99)), (25.0, 29.8));
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn numbers_have_three_digits() {
        let found = [1234.5, 56.78, 0.123, 0.0, f64::NAN].map(number);
        assert_eq!(found, ["1234", "56.8", "0.12", "0", "none"]);
    }
}
