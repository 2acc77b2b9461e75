"""Running a model away from us: a supervised, sandboxed child process that writes the trace itself.

``supervise`` is the parent's side, ``main`` the child's, ``protocol`` what they say to each other;
``sandbox`` (over ``landlock`` and ``seccomp``) is what holds the child in.
"""
