//! A fake language model for tests: its next token is a hash of the whole prefix, so that any mixed-up cache
//! changes the text.
