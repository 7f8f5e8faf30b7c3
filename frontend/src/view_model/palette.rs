//! Where one can go by typing a few letters, best first.
use super::columns::natural;

/// More are not looked through: another letter is quicker.
pub const SHOWN: usize = 12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub name: String,
    /// What it is and where: `Pod in shop`.
    pub about: String,
    pub to: String,
}

/// Places that have every word of `typed` in name or description; those whose name begins with it come first.
pub fn best(places: &[Place], typed: &str) -> Vec<Place> {
    let typed = typed.trim().to_lowercase();
    let rank = |place: &Place| {
        let (name, about) = (place.name.to_lowercase(), place.about.to_lowercase());
        let is_there = typed.split_whitespace().all(|word| name.contains(word) || about.contains(word));
        is_there.then(|| match () {
            () if name == typed => 0,
            () if name.starts_with(&typed) => 1,
            () if name.contains(&typed) => 2,
            () => 3,
        })
    };
    let mut found: Vec<_> = places.iter().filter_map(|place| Some((rank(place)?, place))).collect();
    // Without letters the order is the menu's own.
    if !typed.is_empty() {
        found.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| natural(&x.name, &y.name)));
    }
    found.into_iter().take(SHOWN).map(|(_, place)| place.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, about: &str) -> Place {
        Place { name: name.into(), about: about.into(), to: format!("/ui/{name}") }
    }

    #[test]
    fn names_that_begin_with_what_was_typed_come_first() {
        let places = [
            place("my-web", "Deployment in a"),
            place("web-10", "Pod in a"),
            place("web-2", "Pod in a"),
            place("web", "Service in b"),
            place("api", "Pod in web"),
        ];
        let names = |typed: &str| best(&places, typed).into_iter().map(|p| p.name).collect::<Vec<_>>();
        assert_eq!(names("web"), ["web", "web-2", "web-10", "my-web", "api"]);
        assert_eq!(names("pod WEB"), ["api", "web-2", "web-10"]);
        assert_eq!(names("").len(), 5);
        assert_eq!(names("nothing").len(), 0);
    }
}
