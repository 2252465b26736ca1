//! The scalars of a step: exponentially weighted integrals of an interpolation through network evaluations.
//!
//! With m the x0 prediction, `x_t` = (`sigma_t` / `sigma_s`) `x_s` + `alpha_t` `int_0`^h exp(-(h - u)) m(u) du,
//! and with m the noise, `x_t` = (`alpha_t` / `alpha_s`) `x_s` - `sigma_t` `int_0`^h exp(h - u) m(u) du,
//! where u = lambda - `lambda_s` (Lu et al. 2022a, prop. 3.1; 2022b, prop. 4.1). A polynomial m is integrated exactly.

use crate::NoiseSchedule;
use crate::config::UniPcForm;

/// A point of the schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Node {
    pub(crate) t: f64,
    pub(crate) log_alpha: f64,
    pub(crate) alpha: f64,
    pub(crate) sigma: f64,
    pub(crate) lambda: f64,
}

impl Node {
    pub(crate) fn at(schedule: &NoiseSchedule, t: f64) -> Self {
        Self {
            t,
            log_alpha: schedule.log_alpha(t),
            alpha: schedule.alpha(t),
            sigma: schedule.sigma(t),
            lambda: schedule.lambda(t),
        }
    }

    /// Pure data: where denoising to zero ends.
    pub(crate) const DATA: Self = Self {
        t: 0.0,
        log_alpha: 0.0,
        alpha: 1.0,
        sigma: 0.0,
        lambda: f64::INFINITY,
    };

    /// Pure noise: where encoding to noise ends.
    pub(crate) const NOISE: Self = Self {
        t: f64::INFINITY,
        log_alpha: f64::NEG_INFINITY,
        alpha: 0.0,
        sigma: 1.0,
        lambda: f64::NEG_INFINITY,
    };
}

impl Node {
    /// Whether nothing of the image is left here: the end of a schedule of zero terminal SNR.
    pub(crate) fn is_pure_noise(self) -> bool {
        self.lambda == f64::NEG_INFINITY
    }
}

/// Which prediction is interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integrand {
    X0,
    Noise,
}

/// `phi_k`(y) for k >= 1: `phi_1`(y) = (e^y - 1) / y, `phi_{k+1}(y)` = (`phi_k`(y) - 1/k!) / y.
pub(crate) fn phi(k: u32, y: f64) -> f64 {
    if y.abs() < 1.0 {
        // The recursion cancels here; the series doesn't.
        let mut term = 1.0 / factorial(k);
        let mut sum = term;
        for n in 1..25 {
            term *= y / f64::from(n + k);
            sum += term;
        }
        return sum;
    }
    let mut value = y.exp_m1() / y;
    for j in 1..k {
        value = (value - 1.0 / factorial(j)) / y;
    }
    value
}

fn factorial(k: u32) -> f64 {
    (1..=k).map(f64::from).product()
}

/// The way from one node to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    integrand: Integrand,
    from: Node,
    to: Node,
    /// `lambda_to` - `lambda_from`.
    pub(crate) h: f64,
}

impl Segment {
    pub(crate) fn new(integrand: Integrand, from: Node, to: Node) -> Self {
        let h = if from.lambda == to.lambda {
            0.0
        } else {
            to.lambda - from.lambda
        };
        Self {
            integrand,
            from,
            to,
            h,
        }
    }

    /// Weight of the state that the segment starts from.
    pub(crate) fn base(&self) -> f64 {
        match self.integrand {
            Integrand::X0 => self.to.sigma / self.from.sigma,
            Integrand::Noise => (self.to.log_alpha - self.from.log_alpha).exp(),
        }
    }

    /// Weight of a constant m.
    pub(crate) fn first(&self) -> f64 {
        let (a, s) = (&self.from, &self.to);
        match (self.integrand, self.h.is_finite()) {
            (Integrand::X0, true) => -s.alpha * (-self.h).exp_m1(),
            (Integrand::Noise, true) => -s.sigma * self.h.exp_m1(),
            // Towards pure data or pure noise: the limit.
            (Integrand::X0, false) => s.alpha - s.sigma * a.alpha / a.sigma,
            (Integrand::Noise, false) => s.sigma - s.alpha * a.sigma / a.alpha,
        }
    }

    /// Weight of (u / h)^k in m.
    fn power(&self, k: u32) -> f64 {
        let (sign, weight) = match self.integrand {
            Integrand::X0 => (1.0, self.to.alpha),
            Integrand::Noise => (-1.0, self.to.sigma),
        };
        sign * weight * self.h * factorial(k) * phi(k + 1, -sign * self.h)
    }

    /// Weights of m at the points `u / h` of the polynomial that goes through all of them.
    pub(crate) fn weights(&self, points: &[f64]) -> Vec<f64> {
        if points.len() == 1 {
            return vec![self.first()];
        }
        (0..points.len())
            .map(|j| {
                lagrange(points, j)
                    .iter()
                    .zip(0..)
                    .map(|(c, k)| c * self.power(k))
                    .sum()
            })
            .collect()
    }

    /// Weights of m at 0 and at `r` for the midpoint form: half the slope times the first-order weight.
    pub(crate) fn midpoint(&self, r: f64) -> Vec<f64> {
        let first = self.first();
        let slope = 0.5 * first / r;
        vec![first - slope, slope]
    }

    /// Weights of m at 0 and at `r` for `UniPC`'s forms: half the slope times B(h).
    pub(crate) fn uni_pc(&self, r: f64, form: UniPcForm) -> Vec<f64> {
        let weight = match (form, self.integrand) {
            (UniPcForm::Bh1, Integrand::X0) => self.to.alpha * self.h,
            (UniPcForm::Bh1, Integrand::Noise) => -self.to.sigma * self.h,
            (UniPcForm::Exact | UniPcForm::Bh2, _) => self.first(),
        };
        let slope = 0.5 * weight / r;
        vec![self.first() - slope, slope]
    }

    /// The third-order weights of dpm-solver and diffusers at 0, `p1` and `p2`, both negative: the second difference
    /// has half of the weight that exact integration gives it.
    pub(crate) fn peers_third(&self, p1: f64, p2: f64) -> Vec<f64> {
        let points = [0.0, p1, p2];
        let excess = 0.5 * self.power(2);
        let exact = self.weights(&points);
        (0..3)
            .map(|j| exact[j] - excess * lagrange(&points, j)[2])
            .collect()
    }
}

/// Coefficients, by rising power, of the polynomial that is 1 at point `j` and 0 at the others.
fn lagrange(points: &[f64], j: usize) -> Vec<f64> {
    let mut poly = vec![1.0];
    for (i, &p) in points.iter().enumerate() {
        if i == j {
            continue;
        }
        let scale = 1.0 / (points[j] - p);
        let mut next = vec![0.0; poly.len() + 1];
        for (k, c) in poly.iter().enumerate() {
            next[k] -= c * p * scale;
            next[k + 1] += c * scale;
        }
        poly = next;
    }
    poly
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScheduleConfig;

    /// Simpson's rule on the integral of exp(y (1 - u)) u^(k - 1) / (k - 1)! over (0, 1), which defines `phi_k`(y).
    fn phi_by_quadrature(k: u32, y: f64) -> f64 {
        let n = 4000;
        let f = |u: f64| (y * (1.0 - u)).exp() * u.powi(k as i32 - 1) / factorial(k - 1);
        let mut sum = f(0.0) + f(1.0);
        for i in 1..n {
            sum += f(f64::from(i) / f64::from(n)) * if i % 2 == 1 { 4.0 } else { 2.0 };
        }
        sum / (3.0 * f64::from(n))
    }

    #[test]
    fn phi_is_its_integral() {
        for k in 1..=4 {
            for y in [-8.0, -1.0, -0.999, -1e-3, 0.0, 1e-9, 0.3, 1.0, 1.001, 6.0] {
                let (a, b) = (phi(k, y), phi_by_quadrature(k, y));
                assert!(
                    (a - b).abs() < 1e-11 * b.abs().max(1.0),
                    "phi_{k}({y}) = {a}, by quadrature {b}"
                );
            }
        }
    }

    #[test]
    fn weights_of_all_points_sum_to_the_weight_of_a_constant() -> crate::Result<()> {
        let s = ScheduleConfig::linear(1000).build()?;
        for integrand in [Integrand::X0, Integrand::Noise] {
            let seg = Segment::new(integrand, Node::at(&s, 0.3), Node::at(&s, 0.2));
            for points in [
                &[0.0, -0.7][..],
                &[0.0, -0.5, -1.6],
                &[1.0, 0.0, -1.0, -2.5],
            ] {
                let sum: f64 = seg.weights(points).iter().sum();
                assert!(
                    (sum - seg.first()).abs() < 1e-12,
                    "{points:?}: {sum} and {}",
                    seg.first()
                );
            }
        }
        Ok(())
    }

    #[test]
    fn a_constant_clean_image_is_followed_exactly() -> crate::Result<()> {
        // With x0 and epsilon fixed, both forms take x = alpha x0 + sigma epsilon to the same at any other time.
        let s = ScheduleConfig::linear(1000).build()?;
        let (x0, eps) = (0.3, -1.2);
        for (a, b) in [(0.9, 0.1), (0.1, 0.9), (1.0, 0.001)] {
            let (from, to) = (Node::at(&s, a), Node::at(&s, b));
            let x = from.alpha * x0 + from.sigma * eps;
            let want = to.alpha * x0 + to.sigma * eps;
            for (integrand, m) in [(Integrand::X0, x0), (Integrand::Noise, eps)] {
                let seg = Segment::new(integrand, from, to);
                let got = seg.base() * x + seg.first() * m;
                assert!(
                    (got - want).abs() < 1e-9,
                    "{integrand:?} {a} to {b}: {got}, {want}"
                );
            }
        }
        for (integrand, m) in [(Integrand::X0, x0), (Integrand::Noise, eps)] {
            let from = Node::at(&s, 0.4);
            let x = from.alpha * x0 + from.sigma * eps;
            for (to, want) in [(Node::DATA, x0), (Node::NOISE, eps)] {
                let seg = Segment::new(integrand, from, to);
                let got = seg.base() * x + seg.first() * m;
                assert!(
                    (got - want).abs() < 1e-12,
                    "{integrand:?} to {to:?}: {got}, {want}"
                );
            }
        }
        Ok(())
    }
}
