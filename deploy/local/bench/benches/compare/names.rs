//! The names of what serves requests, in tables, goals and plots.

/// A short name for tables and goals, and what it stands for.
pub(crate) struct Name {
    pub(crate) short: &'static str,
    /// Also the name in plots, which have no legend of their own in the documents.
    pub(crate) long: &'static str,
}

pub(crate) const BARE_WARP: Name = Name {
    short: "bare warp",
    long: "warp with a static body",
};
pub(crate) const MAX_TWO: Name = Name {
    short: "Max Two",
    long: "Max Two",
};
pub(crate) const NOT_DURABLE: Name = Name {
    short: "not durable",
    long: "Max Two, `synchronous_commit = off`",
};
pub(crate) const ROW_HELD: Name = Name {
    short: "row held",
    long: "Max Two, but the row is held until the commit is durable",
};
pub(crate) const MESSAGE_PER_REQUEST: Name = Name {
    short: "message per request",
    long: "a durable message per request, pool of 10",
};
pub(crate) const SEARCH_PER_REQUEST: Name = Name {
    short: "search per request",
    long: "a search (`where points > $1 limit 2`) per request, not durable, pool of 10",
};
pub(crate) const BASELINE: Name = Name {
    short: "baseline",
    long: "Max Two of an earlier commit",
};

/// The names that need to be explained.
pub(crate) const LEGEND: [Name; 6] = [
    BARE_WARP,
    NOT_DURABLE,
    ROW_HELD,
    MESSAGE_PER_REQUEST,
    SEARCH_PER_REQUEST,
    BASELINE,
];
