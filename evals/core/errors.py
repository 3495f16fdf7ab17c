"""The one exception type for what a user can cause."""

EXIT_OK, EXIT_USAGE, EXIT_ROWS_MISSING = 0, 2, 3


class UserError(Exception):
    """Printed as one line (what was wrong, where, what to do), exit code 2, no traceback unless --debug."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class RowUnavailable(UserError):
    """A row cannot be had here (no data, or a back end that cannot score it): shown with this reason; others go on."""
