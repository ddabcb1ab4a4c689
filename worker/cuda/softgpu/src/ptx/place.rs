//! Where the lanes of a warp meet again after a branch: at the first place that every way from there on passes.
//!
//! These are immediate post-dominators of the graph of instructions, found as dominators of the graph turned around, after: Cooper,
//! Harvey, Kennedy, "A Simple, Fast Dominance Algorithm", 2001.

use super::instruction::{Instruction, Op};

/// For each instruction, where lanes that part there meet again; the code's length: only at the end.
pub fn reconvergence(code: &[Instruction]) -> Vec<usize> {
    let end = code.len();
    let next = |at: usize| -> [usize; 2] {
        let instruction = &code[at];
        let goes_on = (at + 1).min(end);
        match (&instruction.op, instruction.guard) {
            (Op::Branch(to), None) => [*to, *to],
            (Op::Branch(to), Some(_)) => [*to, goes_on],
            (Op::Return | Op::Trap, None) => [end, end],
            // A lane that returns under a guard is at the end; where the others go on, they wait for nobody.
            _ => [goes_on, goes_on],
        }
    };
    let mut before: Vec<Vec<usize>> = vec![vec![]; end + 1];
    for at in 0..end {
        let [a, b] = next(at);
        before[a].push(at);
        if a != b {
            before[b].push(at);
        }
    }
    // Order in which the turned graph is left, from the end.
    let mut order = vec![];
    let mut seen = vec![false; end + 1];
    let mut stack = vec![(end, 0)];
    seen[end] = true;
    while let Some((at, child)) = stack.pop() {
        if let Some(&to) = before[at].get(child) {
            stack.push((at, child + 1));
            if !seen[to] {
                seen[to] = true;
                stack.push((to, 0));
            }
        } else {
            order.push(at);
        }
    }
    let mut number = vec![0; end + 1];
    for (i, &at) in order.iter().enumerate() {
        number[at] = i;
    }
    const UNKNOWN: usize = usize::MAX;
    let mut meets = vec![UNKNOWN; end + 1];
    meets[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &at in order.iter().rev().filter(|&&at| at != end) {
            let mut common = UNKNOWN;
            for to in next(at) {
                if meets[to] == UNKNOWN {
                    continue;
                }
                common = if common == UNKNOWN {
                    to
                } else {
                    let (mut a, mut b) = (common, to);
                    while a != b {
                        while number[a] < number[b] {
                            a = meets[a];
                        }
                        while number[b] < number[a] {
                            b = meets[b];
                        }
                    }
                    a
                };
            }
            if common != meets[at] {
                meets[at] = common;
                changed = true;
            }
        }
    }
    meets.truncate(end);
    // What never ends is not reached from the end.
    meets.into_iter().map(|m| m.min(end)).collect()
}
