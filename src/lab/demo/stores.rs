//! The stores of the demo: a first file that is done before the second comes, which repeats some of it.

const HEADER: &str = "organization_id,public_id,name,address,phone";

/// How many rows of the second file meet what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    pub rows: usize,
    /// Registered already, with the same content.
    pub same: usize,
    /// Registered already, with another name.
    pub conflicting: usize,
    /// Refused by the platform.
    pub refused: usize,
}

impl Cast {
    pub const fn of(rows: usize) -> Cast {
        Cast { rows, same: rows / 15, conflicting: rows / 30, refused: rows / 30 }
    }

    /// What is registered before.
    pub fn first(self) -> String {
        let rows = (0..self.same + self.conflicting).map(|n| row(n, "本店"));
        std::iter::once(format!("{HEADER}\n")).chain(rows).collect()
    }

    /// Among its rows is one of an organisation that may not have the service: the batch pauses until an operator has looked.
    pub fn second(self) -> String {
        let rows = (0..self.rows).map(|n| match n {
            n if n < self.same => row(n, "本店"),
            n if n < self.same + self.conflicting => row(n, "改名した店"),
            n if n < self.same + self.conflicting + self.refused => format!("org-1,NOSHOP-{n},断られる店,,\n"),
            n if n == self.rows / 2 => format!("NOSERVICE-1,store-{n:04},使えない組織の店,,\n"),
            n => row(n, "支店"),
        });
        std::iter::once(format!("{HEADER}\n")).chain(rows).collect()
    }
}

fn row(n: usize, name: &str) -> String {
    format!("org-{},store-{n:04},{name}{n},東京都千代田区{n},03-0000-{n:04}\n", n % 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::Cast;

    #[test]
    fn the_files_hold_what_the_cast_says() {
        let cast = Cast::of(300);
        assert_eq!(cast, Cast { rows: 300, same: 20, conflicting: 10, refused: 10 });
        let (first, second) = (cast.first(), cast.second());
        assert_eq!((first.lines().count(), second.lines().count()), (31, 301));
        let again = second.lines().skip(1).filter(|line| first.lines().any(|known| known == *line)).count();
        assert_eq!(again, 20);
        assert_eq!(second.matches("NOSHOP").count(), 10);
        assert_eq!(second.matches("NOSERVICE").count(), 1);
    }
}
