"""REST handlers of templates and teams: parse, call control, render."""

from __future__ import annotations

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.handlers import Api, json_answer
from cloister.api.paging import take_page
from cloister.api.template_schemas import parse_public, render_build, render_stock, render_template
from cloister.control.names import parse_reference
from cloister.errors import TemplateNotFoundError
from cloister.model.team import Team

__all__ = ["change", "delete", "find_alias", "get", "list_default", "list_pages", "list_templates"]


async def list_templates(api: Api, _request: web.Request, team: Team) -> web.Response:
    """``GET /templates``: the team's own templates, newest first, then the stock templates."""
    own = [render_template(view) for view in await api.templates.list(team)]
    return json_answer([*own, *(render_stock(template, api.templates.since) for template in await api.templates.stock())])


async def list_pages(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /v2/templates``: the same templates by age, in pages."""
    since = api.templates.since
    items = [((view.template.created_at, view.template.template_id), render_template(view)) for view in await api.templates.list(team)]
    items += [((one.created_at or since, one.template_id), render_stock(one, since)) for one in await api.templates.stock()]
    page, more = take_page(items, request.query)
    return json_answer(page, headers={} if more is None else {"X-Next-Token": more})


async def list_default(api: Api, _request: web.Request, _team: Team) -> web.Response:
    """``GET /default-templates``: the stock templates."""
    return json_answer([render_stock(template, api.templates.since) for template in await api.templates.stock()])


async def get(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/{template_id}``: the template with its builds, newest first, in pages."""
    reference = request.match_info["template_id"]
    stock = await api.templates.find_stock(reference.strip().lower())
    if stock is not None:
        return json_answer({**render_stock(stock, api.templates.since), "builds": []})
    view = await api.templates.view(team, reference)
    page, more = take_page([((build.created_at, build.build_id), render_build(build)) for build in view.builds], request.query)
    return json_answer({**render_template(view), "builds": page}, headers={} if more is None else {"X-Next-Token": more})


async def delete(api: Api, request: web.Request, team: Team) -> web.Response:
    """``DELETE /templates/{template_id}``."""
    await api.builds.deletion.delete(team, request.match_info["template_id"])
    return web.Response(status=204)


async def change(api: Api, request: web.Request, team: Team) -> web.Response:
    """``PATCH /v2/templates/{template_id}``, and without ``/v2``."""
    reference, public = request.match_info["template_id"], parse_public(await read_json(api, request))
    if public is None:
        view = await api.templates.view(team, reference)
    else:
        view = await api.templates.publish(team, reference, public=public)
    return json_answer({"names": render_template(view)["names"]})


async def find_alias(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /templates/aliases/{alias}``: the template of that name, if the team can see one."""
    alias = request.match_info["alias"]
    reference = parse_reference(alias)
    row = None if reference is None else await api.templates.find_row(team.team_id, reference)
    if row is not None:
        return json_answer({"templateID": row.template_id, "public": row.public})
    stock = None if reference is None or reference.namespace is not None else await api.templates.find_stock(reference.name)
    if stock is None:
        raise TemplateNotFoundError(f"template '{alias[:200]}' not found")
    return json_answer({"templateID": stock.template_id, "public": True})
