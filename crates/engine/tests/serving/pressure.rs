//! Two hundred requests on a cache far too small.
