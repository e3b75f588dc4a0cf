//! What rules draw at random.

/// The numbers drawn on one walk. The next walk draws the same but for the last, until all were drawn.
#[derive(Debug, Default)]
pub(super) struct Draws {
    /// Each number, and of how many it was drawn.
    drawn: Vec<(u32, u32)>,
    /// How many of them this walk has used.
    used: usize,
}

impl Draws {
    /// A number from 0 up, of so many.
    pub(super) fn draw(&mut self, of: u32) -> u32 {
        if self.used == self.drawn.len() {
            self.drawn.push((0, of));
        }
        let number = self.drawn.get(self.used).map_or(0, |(number, _)| *number);
        self.used += 1;
        number
    }

    /// One in how many walks draws these numbers.
    pub(super) fn one_in(&self) -> u64 {
        self.drawn.iter().fold(1, |all, (_, of)| all.saturating_mul(u64::from((*of).max(1))))
    }

    /// Goes on to the numbers of the next walk; false if there is none.
    pub(super) fn advance(&mut self) -> bool {
        self.used = 0;
        while let Some((number, of)) = self.drawn.pop() {
            if number + 1 < of {
                self.drawn.push((number + 1, of));
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_comes_once_and_their_shares_are_a_whole() {
        let mut draws = Draws::default();
        let mut seen = Vec::new();
        loop {
            // What is drawn second depends on the first.
            let first = draws.draw(3);
            let second = if first == 1 { Some(draws.draw(2)) } else { None };
            seen.push((first, second, draws.one_in()));
            if !draws.advance() {
                break;
            }
        }
        assert_eq!(seen, [(0, None, 3), (1, Some(0), 6), (1, Some(1), 6), (2, None, 3)]);
    }
}
