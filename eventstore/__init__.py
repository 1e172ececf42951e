"""The language of Muster (commands, events, state) and its log on Redis Streams.

It defines what all other parts share: `language` has the events, the states and the decisions,
`steps` what one commit consists of, `log` how it is committed and read, `connection` the clients of
Redis, `durability` the levels of acknowledgement, `recovery` how a lost log is rebuilt, `embedded`
the server that `muster up` starts. Nothing here imports another package of Muster.
"""
