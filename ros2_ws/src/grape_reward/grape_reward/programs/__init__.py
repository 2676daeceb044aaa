"""The reviewed cost programs, a module a task: functions only, on NumPy only, nothing imported from the project.

Distances are written out as square root of a sum of squares: a norm computed by the linear algebra library may differ
in the last bit between machines, and a score is hashed."""
