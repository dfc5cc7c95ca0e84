//! Which of several sorted inputs comes next: a tournament whose inner nodes remember who lost there.
//!
//! ```text
//!              winner: 2
//!               [ 0 ]               node 1: 0 lost to 2
//!           [ 1 ]   [ 3 ]           nodes 2, 3: 1 lost to 0, 3 lost to 2
//!           0   1   2   3
//! ```
//!
//! When the winner's next row comes, it plays against the losers on its way up: one comparison per
//! level, half of what a heap needs.
//!
//! Source: D. E. Knuth, "The Art of Computer Programming", volume 3, section 5.4.1.

/// No input has come here yet; it wins against all.
const NOBODY: usize = usize::MAX;

/// See the module documentation.
pub(super) struct LoserTree {
    /// The winner, then the losers of the inner nodes.
    nodes: Vec<usize>,
}

impl LoserTree {
    /// A tournament of inputs `0..count`; `before(a, b)`: whether the first row of `a` comes before
    /// that of `b`.
    pub(super) fn new(count: usize, before: impl Fn(usize, usize) -> bool) -> LoserTree {
        let mut tree = LoserTree { nodes: vec![NOBODY; count.max(1)] };
        (0..count).for_each(|input| tree.play(input, &before));
        tree
    }

    /// The input that comes next.
    pub(super) fn winner(&self) -> usize {
        self.nodes[0]
    }

    /// The winner has another first row.
    pub(super) fn replay(&mut self, before: impl Fn(usize, usize) -> bool) {
        self.play(self.winner(), &before);
    }

    fn play(&mut self, input: usize, before: &impl Fn(usize, usize) -> bool) {
        let mut winner = input;
        let mut node = (input + self.nodes.len()) / 2;
        while node > 0 {
            let loser = &mut self.nodes[node];
            if winner != NOBODY && (*loser == NOBODY || before(*loser, winner)) {
                std::mem::swap(loser, &mut winner);
            }
            node /= 2;
        }
        self.nodes[0] = winner;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_inputs_comes_out_in_order() {
        for count in 1..20usize {
            let mut inputs: Vec<Vec<usize>> = (0..count)
                .map(|input| (0..input * 7 % 5).rev().map(|x| x * 3 % 11).collect())
                .collect();
            inputs.iter_mut().for_each(|input| input.sort_by(|a, b| b.cmp(a)));
            let mut expected: Vec<usize> = inputs.concat();
            expected.sort_unstable();
            let key = |inputs: &[Vec<usize>], at: usize| {
                (inputs[at].last().copied().unwrap_or(usize::MAX), at)
            };
            let mut tree = LoserTree::new(count, |a, b| key(&inputs, a) < key(&inputs, b));
            let mut found = Vec::new();
            while let Some(value) = inputs[tree.winner()].pop() {
                found.push(value);
                tree.replay(|a, b| key(&inputs, a) < key(&inputs, b));
            }
            assert_eq!(found, expected, "{count} inputs");
        }
    }
}
