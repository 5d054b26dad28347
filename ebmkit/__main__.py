"""The command: ``ebmkit`` and ``python -m ebmkit``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0, 2 for a user's mistake, 1 for a fault of ours or a plugin's,
    130 when interrupted, 143 when terminated."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    import click

    from ebmkit.cli import ebmkit
    from ebmkit.cli._output import warnings_as_notices
    from ebmkit.errors import EbmkitError, UserError, legible, out_of_memory

    try:
        with warnings_as_notices():
            result = ebmkit.main(arguments, prog_name="ebmkit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt) as error:
        # What was interrupted may have said so; click chains it to its own.
        said = str(error.__cause__ or error)
        click.echo(f"interrupted{' ' * bool(said)}{said}", err=True)
        return 143 if _terminated(error) else 130
    except EbmkitError as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            click.echo(f"error: {legible(line)}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # The reader of a pipe has gone; a second failure on flushing at exit would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if out_of_memory(error):
            click.echo(
                f"error: more memory is needed than there is: {error}; a smaller batch_size, "
                "buffer_size or n_samples needs less",
                err=True,
            )
            return UserError.exit_code
        import traceback

        from ebmkit.cli._fault import culprit

        traceback.print_exc()
        click.echo(f"error: a fault in {culprit(error)}: {type(error).__name__}: {error}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _terminated(error: BaseException | None) -> bool:
    """Whether what ended the command goes back to SIGTERM, from which chains raise their own error."""
    from ebmkit.errors import Terminated

    while error is not None and not isinstance(error, Terminated):
        error = error.__cause__ or error.__context__
    return error is not None


if __name__ == "__main__":
    main()
