"use strict";

// A file of its own: the page's Content-Security-Policy allows no inline script.
(() => {
  const place = document.getElementById("swagger-ui");
  const definition = new URL(place.dataset.openapi, document.baseURI);

  // A definition that names no server means the root of the host. Behind a proxy that strips a
  // prefix without announcing it, that is somebody else's application, and "Try it out" would
  // hand it the admin token.
  const nameServer = (response) => {
    if (response.url === definition.href && response.ok) {
      const document = JSON.parse(response.text);
      if (!document.servers?.length) {
        document.servers = [{ url: new URL(".", definition).pathname.replace(/\/$/, "") || "/" }];
        response.text = JSON.stringify(document);
      }
    }
    return response;
  };

  SwaggerUIBundle({
    domNode: place,
    url: definition.href,
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    deepLinking: true,
    showExtensions: true,
    showCommonExtensions: true,
    validatorUrl: null, // the default sends the definition's address to a third party
    persistAuthorization: false, // an admin token does not outlive the page
    responseInterceptor: nameServer,
  });
})();
