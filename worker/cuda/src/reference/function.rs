//! Functions that the standard library lacks.

/// The error function, by its series and its continued fraction; to about 1e-15.
pub fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    if magnitude > 6.0 {
        return x.signum();
    }
    if magnitude < 2.5 {
        // 2 / sqrt(pi) * sum of (-1)^n x^(2n + 1) / (n! (2n + 1))
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
            if term.abs() < 1e-18 {
                break;
            }
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut fraction = 0.0;
    for n in (1..200).rev() {
        fraction = f64::from(n) / 2.0 / (magnitude + fraction);
    }
    let rest = (-magnitude * magnitude).exp() / ((magnitude + fraction) * std::f64::consts::PI.sqrt());
    x.signum() * (1.0 - rest)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_error_function_has_its_known_values() {
        for (x, known) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (3.0, 0.999_977_909_503_001_4),
        ] {
            assert!((super::erf(x) - known).abs() < 1e-13, "{x}: {}", super::erf(x));
            assert!((super::erf(-x) + known).abs() < 1e-13);
        }
    }
}
