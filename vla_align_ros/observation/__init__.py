"""From serialised messages to what the policy sees: `codecs` (message <-> numpy), `resize` (letterbox), `assemble`
(asynchronous messages -> the observation at a tick), `normalise` (robot units <-> network units)."""
