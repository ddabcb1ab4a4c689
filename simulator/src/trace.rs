//! Bandwidth over time.

use graft_certify::Generator;

/// A trace that can't be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name}: line {line}: {what}")]
pub struct TraceError {
    /// The trace.
    pub name: String,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// Bandwidth over time; at its end it begins anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Its name.
    pub name: String,
    /// When each row begins, in seconds from the first, and where the last ends.
    times: Vec<f64>,
    /// Megabits that went before each of these times.
    sums: Vec<f64>,
    /// Round trip of each row, in milliseconds, where it is known.
    rtt_ms: Option<Vec<f64>>,
}

/// Length of a trace that is made up, in seconds.
const MADE_UP_S: usize = 600;
/// Of those: name, mean megabits a second, deviation of the logarithm, dips a second. Figures of the order of those
/// that Raca et al., "Beyond throughput, the next generation" (MMSys 2020), and Winstein et al., "Stochastic forecasts"
/// (NSDI 2013), show.
const MADE_UP: [(&str, f64, f64, f64); 4] = [
    ("5g", 60.0, 0.9, 0.04),
    ("lte", 12.0, 0.7, 0.03),
    ("wifi", 80.0, 0.4, 0.01),
    ("", 20.0, 0.6, 0.02),
];
/// Mean length of a dip, in seconds, and the part of the bandwidth that is left in one.
const DIP: (f64, f64) = (3.0, 0.08);
/// Part of a second's deviation that the next second keeps.
const MEMORY: f64 = 0.9;

impl Trace {
    /// Reads `time_s,bandwidth_mbps[,rtt_ms]` with a header. A row holds until the next one's time.
    pub fn parse(name: &str, text: &str) -> Result<Self, TraceError> {
        let wrong = |line: usize, what: &str| TraceError {
            name: name.to_owned(),
            line,
            what: what.to_owned(),
        };
        let mut lines = text.lines().enumerate();
        let header = lines.next().map_or("", |(_, l)| l.trim());
        let has_rtt = match header {
            "time_s,bandwidth_mbps" => false,
            "time_s,bandwidth_mbps,rtt_ms" => true,
            _ => return Err(wrong(1, "expected the header time_s,bandwidth_mbps[,rtt_ms]")),
        };
        let (mut rows, mut rtts) = (vec![], vec![]);
        for (i, line) in lines.filter(|(_, l)| !l.trim().is_empty()) {
            let numbers: Result<Vec<f64>, _> = line.split(',').map(|v| v.trim().parse::<f64>()).collect();
            let numbers = numbers.map_err(|_| wrong(i + 1, "is not made of numbers"))?;
            let sound = numbers.len() == 2 + usize::from(has_rtt)
                && numbers.iter().all(|v| v.is_finite() && *v >= 0.0);
            if !sound {
                return Err(wrong(
                    i + 1,
                    "expected as many numbers as the header has, none below 0",
                ));
            }
            if rows.last().is_some_and(|&(at, _): &(f64, f64)| at >= numbers[0]) {
                return Err(wrong(i + 1, "is not later than the row before"));
            }
            rows.push((numbers[0], numbers[1]));
            rtts.extend(numbers.get(2));
        }
        let mut trace = Self::of_rows(name, &rows).ok_or_else(|| wrong(2, "there is no bandwidth at all"))?;
        trace.rtt_ms = has_rtt.then_some(rtts);
        Ok(trace)
    }

    /// Makes a trace up, of the kind that its name begins with: `5g`, `lte`, `wifi`, or middling.
    ///
    /// The logarithm wanders (an autoregressive process of the first order), with dips.
    pub fn made_up(name: &str, seed: u64) -> Self {
        let mut dice = Generator::new(seed, name);
        let kind = MADE_UP
            .iter()
            .find(|k| name.starts_with(k.0))
            .unwrap_or(&MADE_UP[3]);
        let (_, mean, deviation, dips) = *kind;
        // The sum of twelve even numbers is nearly normal, with a variance of 1.
        let normal = |dice: &mut Generator| (0..12).map(|_| dice.part()).sum::<f64>() - 6.0;
        let mut at = normal(&mut dice);
        let mut dip_left = 0.0;
        let rows: Vec<(f64, f64)> = (0..MADE_UP_S)
            .map(|second| {
                at = MEMORY * at + (1.0 - MEMORY * MEMORY).sqrt() * normal(&mut dice);
                if dip_left <= 0.0 && dice.part() < dips {
                    dip_left = dice.exponential(DIP.0);
                }
                dip_left -= 1.0;
                let dipped = if dip_left > 0.0 { DIP.1 } else { 1.0 };
                let mbps = mean * (deviation * at - deviation * deviation / 2.0).exp() * dipped;
                (second as f64, mbps)
            })
            .collect();
        Self::of_rows(name, &rows).unwrap_or_else(|| Self::constant(mean))
    }

    /// The same bandwidth always.
    pub fn constant(mbps: f64) -> Self {
        Trace {
            name: format!("{mbps} Mbit/s"),
            times: vec![0.0, 1.0],
            sums: vec![0.0, mbps.max(1e-6)],
            rtt_ms: None,
        }
    }

    fn of_rows(name: &str, rows: &[(f64, f64)]) -> Option<Self> {
        let first = rows.first()?.0;
        let last_step = match rows {
            [.., a, b] => b.0 - a.0,
            _ => 1.0,
        };
        let mut times: Vec<f64> = rows.iter().map(|r| r.0 - first).collect();
        times.push(times.last()? + last_step);
        let mut sums = vec![0.0];
        let mut sum = 0.0;
        for (i, (_, mbps)) in rows.iter().enumerate() {
            sum += mbps * (times[i + 1] - times[i]);
            sums.push(sum);
        }
        (sum > 0.0).then(|| Trace {
            name: name.to_owned(),
            times,
            sums,
            rtt_ms: None,
        })
    }

    /// How long it is, in seconds.
    pub fn length_s(&self) -> f64 {
        self.times.last().copied().unwrap_or(1.0)
    }

    fn row(&self, at_s: f64) -> usize {
        self.times
            .partition_point(|t| *t <= at_s)
            .clamp(1, self.times.len() - 1)
            - 1
    }

    /// Megabits that went from the beginning up to a time of the trace.
    fn gone(&self, at_s: f64) -> f64 {
        let row = self.row(at_s);
        let part = (at_s - self.times[row]) / (self.times[row + 1] - self.times[row]);
        self.sums[row] + part.min(1.0) * (self.sums[row + 1] - self.sums[row])
    }

    /// Seconds that it takes to send `bytes` from a time on.
    pub fn seconds(&self, from_s: f64, bytes: u64) -> f64 {
        let length = self.length_s();
        let from = from_s.rem_euclid(length);
        let whole = self.sums.last().copied().unwrap_or(1.0);
        let goal = self.gone(from) + bytes as f64 * 8e-6;
        let rounds = (goal / whole).floor();
        let rest = goal - rounds * whole;
        let row = self
            .sums
            .partition_point(|s| *s <= rest)
            .clamp(1, self.sums.len() - 1)
            - 1;
        let step = self.sums[row + 1] - self.sums[row];
        let part = if step > 0.0 {
            (rest - self.sums[row]) / step
        } else {
            0.0
        };
        let at = self.times[row] + part * (self.times[row + 1] - self.times[row]);
        (rounds * length + at - from).max(0.0)
    }

    /// The round trip at a time, in milliseconds, where the trace knows it.
    pub fn rtt_ms(&self, at_s: f64) -> Option<f64> {
        let row = self.row(at_s.rem_euclid(self.length_s()));
        self.rtt_ms.as_ref().and_then(|list| list.get(row).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_as_long_as_the_trace_lets_them() {
        let trace = Trace::parse("t", "time_s,bandwidth_mbps\n0,8\n1,0\n2,16\n").unwrap();
        assert!((trace.seconds(0.0, 500_000) - 0.5).abs() < 1e-9);
        // A second of 8 Mbit/s, a second of nothing, half a second of 16.
        assert!((trace.seconds(0.0, 2_000_000) - 2.5).abs() < 1e-9);
        assert!((trace.seconds(1.5, 1_000_000) - 1.0).abs() < 1e-9);
        // Three bytes a round: round and round.
        assert!((trace.seconds(0.0, 30_500_000) - 30.5).abs() < 1e-6);
        assert!((trace.seconds(300.25, 250_000) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_a_trace_is_named() {
        for (text, line) in [
            ("time,mbps\n0,1", 1),
            ("time_s,bandwidth_mbps\n0,x", 2),
            ("time_s,bandwidth_mbps\n0,1\n0,2", 3),
            ("time_s,bandwidth_mbps\n0,-1", 2),
            ("time_s,bandwidth_mbps\n0,1,5", 2),
            ("time_s,bandwidth_mbps\n0,0\n1,0", 2),
        ] {
            assert_eq!(Trace::parse("t", text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn a_made_up_trace_has_about_the_bandwidth_of_its_kind() {
        for (name, low, high) in [
            ("5g-a", 20.0, 120.0),
            ("lte-b", 4.0, 25.0),
            ("wifi-c", 40.0, 140.0),
        ] {
            let trace = Trace::made_up(name, 7);
            let mean = trace.gone(trace.length_s()) / trace.length_s();
            assert!((low..high).contains(&mean), "{name}: {mean}");
            assert_eq!(trace, Trace::made_up(name, 7));
        }
    }
}
