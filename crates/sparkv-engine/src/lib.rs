//! Requests in, events out. (Being written; the surface below is settled.)
