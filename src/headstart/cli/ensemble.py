"""stub to be replaced."""
import typer
app = typer.Typer()
@app.command()
def ensemble() -> None:
    """x."""
@app.command("y")
def y() -> None:
    """x."""
