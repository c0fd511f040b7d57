//! Medians, and how sure they are.

use crate::report::Spread;
use crate::sources::random;

/// Samples drawn from the samples, to see how the median varies.
const RESAMPLES: usize = 2000;

/// The middle of `values`; not a number if there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => f64::NAN,
        (Some(upper), 1) => *upper,
        (Some(upper), _) => f64::midpoint(sorted[middle - 1], *upper),
    }
}

/// The median and its 95 % interval, by the percentile bootstrap (Efron and Tibshirani, 1993).
pub(crate) fn spread(values: &[f64]) -> Spread {
    let mut medians = Vec::with_capacity(RESAMPLES);
    let mut number = 0;
    let mut sample = vec![0.0; values.len()];
    for _ in 0..RESAMPLES {
        for drawn in &mut sample {
            number += 1;
            let bound = u32::try_from(values.len()).unwrap_or(u32::MAX);
            *drawn = values[crate::sources::below(random(number), bound) as usize];
        }
        medians.push(median(&sample));
    }
    medians.sort_by(f64::total_cmp);
    Spread {
        median: median(values),
        low: medians[RESAMPLES / 40],
        high: medians[RESAMPLES - 1 - RESAMPLES / 40],
    }
}

/// The smallest of `sorted` that this share of them does not exceed.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn an_outlier_moves_neither_median_nor_interval() {
        let mut values: Vec<f64> = (0..25).map(|n| 10.0 + f64::from(n) / 100.0).collect();
        values[3] = 1000.0;
        let Spread { median, low, high } = spread(&values);
        assert!((10.10..10.14).contains(&median), "{median}");
        assert!(low > 10.0 && high < 10.3 && low < high, "{low} to {high}");
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.5), 50.0);
        assert_eq!(quantile(&hundred, 0.99), 99.0);
        assert_eq!(quantile(&hundred, 1.0), 100.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
