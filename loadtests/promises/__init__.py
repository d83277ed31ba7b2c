"""`make promises`: sessions against three replicas that are killed, paused, rolled, filled up and put out of time.

Clients begin sessions, step, fork, rewind, retry and stream; each answer is compared with what an oracle, which has
nothing of the service but the model's file, makes of the session's inputs. In Jepsen's terms there are a generator
(`clients`), a nemesis, a history (`history`) and a checker (`oracle`). Invariants: a difference or a lost session is
told with how to come to it again, and a run in which little happened fails.
"""
